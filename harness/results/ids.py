"""pytest's ids of tests, with and without the kernel that is a parameter in them.

Pure. Imports the standard library alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


def without_kernel(nodeid: str, kernel: str) -> str:
    """Return a test's id without its kernel."""
    head, bracket, tail = nodeid.partition("[")
    if not bracket:
        return nodeid
    # pytest escapes what is not ASCII in ids; a path may hold such.
    name = re.escape(kernel.encode("unicode_escape").decode("ascii"))
    rest = re.sub(rf"(?:^|-){name}(?=-|$)", "", tail.removesuffix("]"), count=1).removeprefix("-")
    return f"{head}[{rest}]" if rest else head


def kernel_of(nodeid: str, kernels: Sequence[str]) -> str | None:
    """Return which of these kernels is a parameter in a test's id; None when none is."""
    longest_first = sorted(kernels, key=len, reverse=True)
    return next((kernel for kernel in longest_first if without_kernel(nodeid, kernel) != nodeid), None)
