"""Kernels with deliberate mistakes, and the tests that find them.

A mutant is the kernel with one small mistake in it. Mutants measure the contracts: each mutant is built, booted
and tested like any kernel, and a mutant that passes every test shows a missing contract.

`edit` defines a mutant, `recipes` reads mutants written by hand, `generate` makes others mechanically. `status` judges
a run, `state` stores the results, `table` prints them. `trial` builds, boots and tests one mutant after the other;
`switches` and `schemata` put many into one kernel. `inner_plugin` and `presence` run inside the pytest that tests a
mutant.
"""
