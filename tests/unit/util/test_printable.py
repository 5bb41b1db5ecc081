"""What a terminal or a CI system would act on is shown instead."""

from __future__ import annotations

import pytest

from harness.util.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext,\nüber ✓ 漢", "plain\ttext,\nüber ✓ 漢"),
        ("a\r\nb", "a\nb"),
        ("hidden\rshown", r"hidden\x0dshown"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x90q\x9d0;x\x9c", r"\x90q\x9d0;x\x9c"),
        ("\x00\x08\x7f", r"\x00\x08\x7f"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("a\u2028b\x85c", r"a\u2028b\x85c"),
        ("\udc80", r"\udc80"),
        ("::error title=x::y", r"\::error title=x::y"),
        ("one\n  \t::add-mask::y", "one\n  \t\\::add-mask::y"),
        ("##vso[task.setvariable]y", r"#\#vso[task.setvariable]y"),
        ("text ##[group]x", r"text #\#[group]x"),
        ("##teamcity[x]", r"#\#teamcity[x]"),
        ("test_a.py::test_b ::1 #1 ## title", "test_a.py::test_b ::1 #1 ## title"),
        ("::1 and std::vector", "::1 and std::vector"),
    ],
)
def test_a_text_acts_on_nothing(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown, "once is enough"


def test_colours_may_stay_and_nothing_else() -> None:
    assert printable("\x1b[1;31mred\x1b[0m\x1b[2J\x07", colours=True) == "\x1b[1;31mred\x1b[0m\\x1b[2J\\x07"
