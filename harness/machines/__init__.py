"""A kernel, an image and a way to run them: machines for tests."""
