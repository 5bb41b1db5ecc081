"""`harness shell` and `harness attach`: a user at a prompt in a guest."""
