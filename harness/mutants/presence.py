"""The first test of every mutant: the running kernel is the kernel that was built.

Not collected with other tests; `harness mutants` names it.
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.testing import Guest

BUILD_ID = "HARNESS_MUTANTS_BUILD_ID"
"""The build id of the kernel's ELF file, in hexadecimal."""


def read_notes() -> str:
    """Return the notes of the running kernel, in hexadecimal."""
    return Path("/sys/kernel/notes").read_bytes().hex()


def test_the_kernel_that_runs_is_the_one_that_was_built(guest: Guest) -> None:
    """The running kernel's build id is the linked file's."""
    assert os.environ[BUILD_ID] in guest.call(read_notes)
