"""`harness compare`: what changed between two runs, or two kernels of one."""
