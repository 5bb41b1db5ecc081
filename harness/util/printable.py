"""Makes text that a guest wrote fit for a terminal and a CI log, which act on parts of what they show."""

from __future__ import annotations

import re

# Control characters besides line feed and tab, those that reverse or break lines, and halves of surrogate pairs.
_ACTIVE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")

# GitHub takes a line that begins so, and `##[` anywhere, as a command; Azure and TeamCity have `##vso[`, `##teamcity[`.
_COMMAND = re.compile(r"^([^\S\n]*):(?=:[A-Za-z])|#(?=#\w*\[)", re.MULTILINE)


def printable(text: str, *, colours: bool = False) -> str:
    r"""Return the text with what a terminal or a CI system would act on made visible: ESC as ``\x1b``.

    Args:
        text: One line or several.
        colours: Leave escape sequences that set colours as they are.
    """
    text = text.replace("\r\n", "\n")
    if colours:
        # Every second part is a sequence that sets a colour.
        parts = [part if number % 2 else _shown(part) for number, part in enumerate(_COLOUR.split(text))]
        text = "".join(parts)
    else:
        text = _shown(text)
    return _COMMAND.sub(lambda match: f"{match[1]}\\:" if match[1] is not None else "#\\", text)


def _shown(text: str) -> str:
    return _ACTIVE.sub(lambda match: _escape(ord(match[0])), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
