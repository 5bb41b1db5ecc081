"""Virtual machines: command, process, console, channel, acceleration, templates and clones."""
