"""What is looked at around every test: the kernel's log, leaks, known faults."""
