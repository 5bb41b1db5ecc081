"""A kernel that selftests are compiled for, which no test boots."""

from __future__ import annotations

from pathlib import Path

from harness.kernel.types import Choice, Kernel
from harness.selftests.against import Against


def against(choice: Choice, release: str, config: Path | None, types: bytes | None) -> Against:
    kernel = Kernel(choice.label, choice.version, release, None, Path("vmlinux"), True, config, None, "", "", "a test")
    return Against(choice, kernel, release, types)
