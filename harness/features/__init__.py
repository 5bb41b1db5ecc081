"""What a kernel can do, found out by probes."""
