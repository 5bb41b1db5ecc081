"""The record of a run: every test on every kernel, what became of it and what was seen, as JSON.

`types` is the record and the source of its JSON schema; `gather` turns what a test's phases reported into results;
`file` reads and writes; `host` looks at this machine. Imports what lies below; knows nothing of pytest.
"""
