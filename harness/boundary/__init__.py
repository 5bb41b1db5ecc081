"""`harness boundary`: between which two releases a behaviour changed."""
