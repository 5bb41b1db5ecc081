"""Capabilities of kernels, found by probes."""
