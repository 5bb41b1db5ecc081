"""What stands in the way of a run on this machine: `harness doctor`, and nothing else, asks this folder."""
