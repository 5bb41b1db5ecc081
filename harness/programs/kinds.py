"""Kinds of test programs: how each lists its tests, how one of them is run, and what that says of it.

Pure: text in, names and words out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WHOLE = "run"
"""What the only test of a program is called that cannot list its tests."""


@dataclass(frozen=True)
class Listed:
    """A test of a program.

    Attributes:
        name: Its name, as the program has it.
        disabled: Whether the program runs it only when forced to.
    """

    name: str
    disabled: bool = False

    @property
    def shown(self) -> str:
        """Its name in pytest, whose ids have another use for "::"."""
        return self.name.replace("::", ".")


@dataclass(frozen=True)
class ProgramKind:
    """A kind of test program.

    Attributes:
        list_words: Arguments that make it print its tests; none where it cannot.
        parse_list: Reads what it prints then.
        select: Returns the arguments that run one test.
        results: The format in which it reports results, one of :data:`harness.exec.formats.PARSERS`; "" where only
            its exit status counts.
    """

    list_words: tuple[str, ...] = ()
    parse_list: Callable[[str], list[Listed]] = lambda _: [Listed(WHOLE)]
    select: Callable[[str], Sequence[str]] = lambda _: ()
    results: str = ""


_GO_NAME = re.compile(r"^(?:Test|Example|Fuzz)\w*$")
_LIBTEST_LINE = re.compile(r"^(?P<name>.+): test$")
_DISABLED = "DISABLED_"


def go_list(text: str) -> list[Listed]:
    """Read what a Go test binary prints with -test.list; benchmarks are left out."""
    return [Listed(line) for line in text.splitlines() if _GO_NAME.match(line)]


def gtest_list(text: str) -> list[Listed]:
    """Read what a googletest program prints with --gtest_list_tests."""
    found = []
    suite = ""
    for line in text.splitlines():
        content = line.partition("  #")[0].rstrip()
        if not line.startswith(" "):
            suite = content if content.endswith(".") else ""  # other lines are the program's own
        elif suite:
            name = f"{suite}{content.strip()}"
            found.append(Listed(name, _DISABLED in name))
    return found


def libtest_list(text: str) -> list[Listed]:
    """Read what a Rust test binary prints with --list --format terse; benchmarks are left out."""
    return [Listed(match["name"]) for line in text.splitlines() if (match := _LIBTEST_LINE.match(line))]


KINDS = {
    "go": ProgramKind(("-test.list", "."), go_list, lambda name: ("-test.v", "-test.run", f"^{name}$"), "go"),
    "gtest": ProgramKind(("--gtest_list_tests",), gtest_list, lambda name: (f"--gtest_filter={name}",), "gtest"),
    "libtest": ProgramKind(
        ("--list", "--format", "terse"), libtest_list, lambda name: ("--exact", name, "--test-threads=1"), "libtest"
    ),
    "tap": ProgramKind(results="tap"),
    "exec": ProgramKind(),
}
"""The kinds, by the word that begins a line of the ini setting."""
