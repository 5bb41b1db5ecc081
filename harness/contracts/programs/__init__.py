"""Programs that use outer maps: what the verifier accepts, what it says, and what a run finds.

A test that is called hazardous loads or inserts and never runs: kernels that accept such a program would let it touch
memory that is not the map's.
"""
