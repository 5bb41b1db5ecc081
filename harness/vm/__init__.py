"""Virtual machines: the command, the process and its console, the channel, acceleration, life and death."""
