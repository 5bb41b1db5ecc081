"""pytest's ids of tests, with and without the kernel that is a parameter in them, and the contracts in them.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


def without_kernel(nodeid: str, kernel: str) -> str:
    """Return a test's id without its kernel."""
    head, bracket, tail = nodeid.partition("[")
    if not bracket:
        return nodeid
    name = re.escape(_in_id(kernel))
    rest = re.sub(rf"(?:^|-){name}(?=-|$)", "", tail.removesuffix("]"), count=1).removeprefix("-")
    return f"{head}[{rest}]" if rest else head


def _in_id(kernel: str) -> str:
    # pytest escapes non-ASCII characters in ids; a path may contain them.
    return kernel.encode("unicode_escape").decode("ascii")


def kernel_of(nodeid: str, kernels: Sequence[str]) -> str | None:
    """Return the kernel that is a parameter in a test's id; None when none of these is.

    It is the first parameter where several could be it, as in `test_upgrade[6.1-6.12]`.
    """
    longest_first = sorted(kernels, key=len, reverse=True)
    found = [kernel for kernel in longest_first if without_kernel(nodeid, kernel) != nodeid]
    parameters = nodeid.partition("[")[2]
    first = (kernel for kernel in found if re.match(re.escape(_in_id(kernel)) + r"[-\]]", parameters))
    return next(first, next(iter(found), None))


_CONTRACT = re.compile(r"(?:hom|aom|mim)(\.[a-z0-9_-]+)+")
_LOADERS = ("raw", "libbpf", "bcc")
"""Parameters that say who makes the bpf(2) calls."""


def is_contract(word: str) -> bool:
    """Whether a word is the id of a contract."""
    return _CONTRACT.fullmatch(word) is not None


def contract_in(test: str) -> str:
    """Return the contract that is a parameter in a test's id, alone or beside a loader; "" for none."""
    words = _parameters(test)
    found = "-".join(word for word in words if word not in _LOADERS)  # a case may have a - in it
    return found if is_contract(found) else ""


def behaviour_of(test: str) -> str:
    """Return what a test is about, the same when its function is called otherwise or lies in another file.

    That is its contract, with the loader where it is not the raw system call; the test's own id where it has none.

    Args:
        test: Its id without the kernel.
    """
    contract = contract_in(test)
    loader = next((word for word in _parameters(test) if word in _LOADERS[1:]), "")
    return f"{contract} ({loader})" if contract and loader else contract or test


def _parameters(test: str) -> list[str]:
    return test.partition("[")[2].removesuffix("]").split("-")
