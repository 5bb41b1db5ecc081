"""What a test needs of the machine that not every machine has, by the table of :mod:`harness.needs`.

A test without it is skipped in a developer's run, and fails with `--no-missing-programs`, which `scripts/test` gives.
The last lines of the run say what was not tested and what to install. See `conftest.py` in the folder above.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterable

import pytest

from harness import needs

OPTION = "--no-missing-programs"

_REASON = re.compile(r"^(?:Skipped: )?(\S+ is not installed: apt-get install .+)$", re.MULTILINE)


class Missing:
    """What was looked for in vain.

    Attributes:
        fails: Whether the test that needs it fails; else it is skipped.
        reported: What a test of this process has failed for.
    """

    fails = False
    reported: set[str] = set()  # noqa: RUF012 - one for the process is what is meant

    @classmethod
    def report(cls, name: str, package: str) -> None:
        """End the test. However many tests need the same thing, one of them fails for it; the others are skipped."""
        __tracebackhide__ = True
        reason = f"{name} is not installed: apt-get install {package}"
        if cls.fails and reason not in cls.reported:
            cls.reported.add(reason)
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason, allow_module_level=True)


def needs_program(name: str, package: str = "") -> None:
    """End the test, or the module, that needs a program which is not installed.

    Args:
        name: The program.
        package: The Debian package that brings it, for a program that is not in the table.
    """
    __tracebackhide__ = True
    if not package:
        _need(needs.need(name))
    elif shutil.which(name) is None:
        Missing.report(name, package)


def needs_features(*features: str, programs_only: bool = False) -> None:
    """End the test, or the module, that needs what features of the table need.

    Args:
        features: Their names in the table.
        programs_only: Whether it can do without the libraries and headers.
    """
    __tracebackhide__ = True
    for one in needs.table().of(features):
        if one.is_program or not programs_only:
            _need(one)


def _need(one: needs.Need) -> None:
    __tracebackhide__ = True
    if needs.find(one) is None:
        Missing.report(one.name, " ".join(one.packages))


def not_tested(reports: Iterable[str]) -> list[str]:
    """Return a line for each thing that is missing.

    Args:
        reports: What each skipped or failed test, or module, says of itself.
    """
    found = Counter(match[1] for text in reports if (match := _REASON.search(text)))
    return [f"{reason} (tests or files: {count})" for reason, count in found.items()]
