"""Which kernels there are, and how one is brought onto this machine.

`selector` and `resolve` are pure (text and records in, records out); providers have the side effects.
"""
