"""Scripts: what starts them.

Pure.
"""

from __future__ import annotations

from pathlib import Path

PYTHON = "/usr/bin/python3"
"""The guest's own Python, which runs every script in Python: it needs its library, and the image has it."""


def starters(start: bytes) -> list[str] | None:
    """Return what starts a script: its interpreter and, where that is env(1), the program that env looks for.

    Args:
        start: The beginning of the file, with its whole first line.

    Returns:
        One or two names, the last of which interprets the script; none where its first line names none. None for a file
        that is not a script.
    """
    if not start.startswith(b"#!"):
        return None
    words = start[2:].partition(b"\n")[0].decode(errors="surrogateescape").split()
    if len(words) < 2 or Path(words[0]).name != "env":
        return words[:1]
    wanted = next((word for word in (words[1].removeprefix("-S"), *words[2:]) if word), "")
    return [words[0], wanted] if wanted else words[:1]


def is_python(name: str) -> bool:
    """Return whether an interpreter is Python, by its name or path."""
    return Path(name).name.startswith("python")
