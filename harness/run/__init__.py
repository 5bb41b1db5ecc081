"""Puts the parts together for a test run: a kernel, an image and a way to run them become machines."""
