"""`harness doctor`: what this machine lacks for a run. Only that command uses this folder."""
