"""The run record: the result of every test on every kernel, as JSON.

`types` defines the record and its JSON schema. `gather` turns the reports of a test's phases into results. `file`
reads and writes. `host` describes this machine.
"""
