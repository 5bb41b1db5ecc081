"""What people read off run records: the matrix of behaviours and kernels, and what changed between two of them.

`matrix` and `changes` are pure and know no format; `html`, `markdown` and `terminal` write them down. Imports the
records below it.
"""
