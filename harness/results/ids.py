"""pytest's ids of tests, with and without the kernel that is a parameter in them, and the contracts in them.

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


_CONTRACT = re.compile(r"(?:hom|aom|mim)(\.[a-z0-9_]+)+")


def is_contract(word: str) -> bool:
    """Whether a word is the id of a contract."""
    return _CONTRACT.fullmatch(word) is not None


def contract_in(test: str) -> str:
    """Return the contract that is a parameter in a test's id; "" for none."""
    return next(filter(is_contract, _parameters(test)), "")


def behaviour_of(test: str) -> str:
    """Return what a test is about, the same when its function is called otherwise or lies in another file.

    That is its contract, with the loader where it is not the raw system call; the test's own id where it has none.

    Args:
        test: Its id without the kernel.
    """
    contract = contract_in(test)
    others = [word for word in _parameters(test) if word not in (contract, "raw")]
    return f"{contract} ({', '.join(others)})" if contract and others else contract or test


def _parameters(test: str) -> list[str]:
    return test.partition("[")[2].removesuffix("]").split("-")
