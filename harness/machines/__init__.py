"""Machines for tests: which machine a test gets."""
