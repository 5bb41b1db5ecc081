"""Upstream kernel versions, and their order."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.errors import SelectorError

_VERSION = re.compile(r"v?(\d{1,3})\.(\d{1,3})(?:\.(\d{1,4}))?(?:[-~]?rc(\d{1,2}))?")


@dataclass(frozen=True, order=True)
class KernelVersion:
    """An upstream version such as 6.1.192, 7.3 or 6.20-rc3.

    Attributes:
        major: First number.
        minor: Second number.
        patch: Point release; 0 for the first release of a series.
        rc: Release candidate's number; a final release sorts after all its candidates.
    """

    major: int
    minor: int
    patch: int = 0
    rc: int = 10_000

    @classmethod
    def parse(cls, text: str) -> KernelVersion:
        """Read "6.1", "v6.1.192" or "6.20-rc3".

        Raises:
            SelectorError: The text is not a version.
        """
        match = _VERSION.fullmatch(text.strip())
        if match is None:
            raise SelectorError(
                f"{text!r} is not a kernel version",
                expected="MAJOR.MINOR, MAJOR.MINOR.PATCH or MAJOR.MINOR-rcN, such as 6.1, 6.12.94 or 6.20-rc3",
                hint="`harness kernels list` prints the available versions",
            )
        major, minor, patch, rc = match.groups()
        return cls(int(major), int(minor), int(patch or 0), int(rc) if rc else 10_000)

    @property
    def series(self) -> tuple[int, int]:
        """The release series, (6, 1) for 6.1.192."""
        return (self.major, self.minor)

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}"
        if self.patch:
            text += f".{self.patch}"
        return text if self.rc == 10_000 else f"{text}-rc{self.rc}"
