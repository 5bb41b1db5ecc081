"""Tables of terminals: what is aligned, what is folded, and what is plain."""

from __future__ import annotations

import os
import subprocess
import sys

import pexpect
import pytest

from harness.util import tables

ROWS: list[tuple[tables.Cell, ...]] = [("a[6.1] :x:", ("✓ ok", "green")), ("the second, a longer one", "12")]
PLAIN = ["what                         n", "a[6.1] :x:                ✓ ok", "the second, a longer one    12"]
PROGRAM = f"from harness.util import tables; tables.show({ROWS!r}, header=('what', 'n'), right=('n',))"
COLOURS = "\x1b["


def test_columns_are_aligned_and_texts_are_left_as_they_are() -> None:
    assert tables.lines(ROWS, header=("what", "n"), right=("n",)) == PLAIN


def test_a_row_may_be_short_and_a_table_empty() -> None:
    assert tables.lines([("a folder",), ("  a", "1"), ("b",)]) == ["a folder", "  a       1", "b"]
    assert tables.lines([]) == []
    assert tables.lines([], header=("a", "b")) == ["a  b"]


def test_what_does_not_fit_is_folded_and_nothing_is_lost() -> None:
    rows = [("x" * 50, "y" * 30, "z")]
    made = tables.lines(rows, header=("a", "b", "c"), width=40)
    assert all(len(line) <= 40 for line in made)
    assert ["".join(made[1:]).count(letter) for letter in "xyz"] == [50, 30, 1]
    assert len(tables.lines(rows, header=("a", "b", "c"))) == 2


def test_styles_are_shown_where_they_are_wanted() -> None:
    assert any(COLOURS in line for line in tables.lines(ROWS, colour=True))
    assert not any(COLOURS in line for line in tables.lines(ROWS, header=("what", "n"), colour=False))


def test_the_console_prints_texts_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    tables.console().print("a[6.1] :x: " + "y" * 300)
    assert capsys.readouterr().out == "a[6.1] :x: " + "y" * 300 + "\n"


def environment(**more: str) -> dict[str, str]:
    taken = ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TERM")
    return {name: value for name, value in os.environ.items() if name not in taken} | more


@pytest.mark.parametrize(("more", "folded"), [({}, False), ({"COLUMNS": "20"}, True), ({"COLUMNS": "x"}, False)])
def test_a_pipe_gets_plain_text_without_an_edge(more: dict[str, str], folded: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment(TERM="xterm-256color", **more),
        capture_output=True,
        text=True,
        check=True,
    )
    assert COLOURS not in done.stdout
    assert (done.stdout.splitlines() != PLAIN) == folded


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
@pytest.mark.parametrize("width", [20, 100])
def test_a_terminal_has_its_width_and_its_colours(width: int, term: str) -> None:
    with pexpect.spawn(
        sys.executable, ["-c", PROGRAM], env=environment(TERM=term), dimensions=(24, width), encoding="utf-8"
    ) as terminal:
        terminal.expect(pexpect.EOF, timeout=300)
        printed = terminal.before
    assert (COLOURS in printed) == (term != "dumb")
    assert (len(printed.splitlines()) > len(PLAIN)) == (width < 30)
