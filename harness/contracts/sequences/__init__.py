"""Random sequences of operations on an outer map: what is drawn, and what a model expects."""
