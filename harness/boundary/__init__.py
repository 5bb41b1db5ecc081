"""`harness boundary`: finds the two releases between which a behaviour changed."""
