"""The memory-only guest image: an uncompressed initramfs made from this machine's own Python and libraries."""
