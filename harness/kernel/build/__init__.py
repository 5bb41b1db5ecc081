"""Building a kernel from a source tree."""
