"""A mutant: a few characters of a kernel's source, replaced.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.errors import UsageError


@dataclass(frozen=True)
class Edit:
    """One replacement in one source file.

    Attributes:
        file: Path in the tree.
        start: Start of the replaced text, in characters.
        old: The old text.
        new: The new text.
        function: The function around it.
    """

    file: str
    start: int
    old: str
    new: str
    function: str = ""


@dataclass(frozen=True)
class Mutant:
    """A kernel with a mistake.

    Attributes:
        name: Its name, unique and stable for one release of the kernel.
        area: The part of the semantics that it changes: "creation", "reference counting", ...
        what: The mistake, in a few words.
        edits: All its edits.
    """

    name: str
    area: str
    what: str
    edits: tuple[Edit, ...]

    @property
    def was(self) -> str:
        """The old text of its edits, on one line."""
        return one_line(" … ".join(edit.old for edit in self.edits))

    @property
    def becomes(self) -> str:
        """The new text of its edits, on one line."""
        return one_line(" … ".join(edit.new for edit in self.edits))


def one_line(text: str) -> str:
    """Return text with each run of white space replaced by one blank."""
    return " ".join(text.split())


def apply(text: str, edits: Sequence[Edit]) -> str:
    """Return a file's text with edits applied.

    Args:
        text: The file for which the edits were made.
        edits: Edits of this file; they do not overlap.

    Raises:
        UsageError: The file has another text at the place of an edit, or two edits overlap.
    """
    pieces = []
    position = 0
    for edit in sorted(edits, key=lambda one: one.start):
        end = edit.start + len(edit.old)
        if edit.start < position or text[edit.start : end] != edit.old:
            raise UsageError(
                f"an edit of {edit.file} does not fit: at character {edit.start} there is no {edit.old!r}",
                expected="edits for this file that do not overlap",
            )
        pieces += [text[position : edit.start], edit.new]
        position = end
    return "".join([*pieces, text[position:]])


def changed(edits: Sequence[Edit], read: Callable[[str], str]) -> dict[str, str]:
    """Return the text of every file that edits change, by path.

    Args:
        edits: Edits of any files.
        read: Returns a file's text without the edits.

    Raises:
        UsageError: As for :func:`apply`.
    """
    return {
        file: apply(read(file), [edit for edit in edits if edit.file == file])
        for file in dict.fromkeys(edit.file for edit in edits)
    }


def function_span(text: str, name: str) -> tuple[int, int]:
    """Return the start and end of a C function's definition, in characters.

    Args:
        text: A file in the kernel's style: a definition begins in the first column and so does its closing brace.
        name: The function.

    Raises:
        UsageError: It is not defined there, or more than once.
    """
    heads = list(re.finditer(rf"^[A-Za-z_][^;{{}}()#]*\b{re.escape(name)}\([^;{{}}]*\)\n\{{", text, re.MULTILINE))
    if len(heads) != 1:
        raise UsageError(
            f"the function {name} is defined {len(heads)} times", expected="one definition in the kernel's style"
        )
    end = text.find("\n}", heads[0].end() - 1)
    return heads[0].start(), end + 2
