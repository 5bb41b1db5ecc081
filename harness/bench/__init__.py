"""`harness bench`: what a pristine kernel costs, here and through plain vng, side by side in one run."""
