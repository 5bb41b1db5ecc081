"""Kernels that are wrong on purpose, and what finds out.

A mutant is the kernel with one small mistake in it. The contracts are worth what they find: each mutant is built,
booted and tested like any kernel, and a mutant that every test passes is a contract that is missing.

`edit` says what a mutant is, `recipes` reads those written by hand, `generate` makes others mechanically, `verdict`
judges what became of a run, `state` keeps it, `table` draws it, `trial` builds, boots and tests. `recorder` and
`presence` run inside the pytest that tests a mutant.

Imports the foundations, :mod:`harness.kernel` and :mod:`harness.results.properties`; `presence`, which is a test,
imports what tests do.
"""
