"""`harness check`: a user's object on many kernels."""
