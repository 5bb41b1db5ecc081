"""The checks around every test: kernel log, leaks, known faults."""
