"""Servers that speak what package sources speak, on 127.0.0.1: for the tests, and by hand as `python -m tests.servers`.

`http` serves sites and makes faults; each other module is one kind of site.
"""
