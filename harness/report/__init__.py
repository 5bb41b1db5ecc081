"""Reports of run records: the matrix of behaviours and kernels, and the changes between two records.

`matrix` and `compare.changes` are pure and independent of formats; `html`, `markdown` and `terminal` write them.
"""
