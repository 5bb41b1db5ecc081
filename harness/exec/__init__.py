"""A program of this machine, run on a fresh guest of each kernel: its files go along, its streams pass through."""
