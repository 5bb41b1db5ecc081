"""Where kernels come from: Debian, Ubuntu, this machine."""
