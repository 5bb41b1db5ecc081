"""Formats of kernel files, and how the files are fetched and unpacked."""
