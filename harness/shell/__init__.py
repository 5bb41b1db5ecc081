"""`harness shell` and `harness attach`: a person at a prompt in a guest."""
