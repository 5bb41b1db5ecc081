"""Mutants written by hand: `kernels/mutants/SERIES.toml`.

A recipe names a file, a function, a few tokens that occur there exactly once, and their replacement. No other part of a
kernel file is stored. Pure except for :func:`load`, which reads the data file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.errors import SelectorError, UsageError
from harness.mutants.edit import Edit, Mutant, function_span
from harness.util.data import read_toml


def load(series: str, read: Callable[[str], str]) -> list[Mutant]:
    """Return the mutants written for a series.

    Args:
        series: "6.1".
        read: Returns the text of a source file, by its path in the tree.

    Raises:
        SelectorError: There are no mutants for this series.
        UsageError: A recipe does not fit the tree.
    """
    from harness.util.data import data_folder

    folder = data_folder("kernels") / "mutants"
    known = sorted(path.stem for path in folder.glob("[0-9]*.toml"))
    if series not in known:
        raise SelectorError(f"no mutants are written for {series}", expected=f"one of {', '.join(known)}")
    return [parse(recipe, read) for recipe in read_toml("kernels", f"mutants/{series}.toml")["mutant"]]


def parse(recipe: Mapping[str, Any], read: Callable[[str], str]) -> Mutant:
    """Return the mutant that a recipe describes.

    Args:
        recipe: `name`, `area`, `what` and `edit`, a list of tables with `file`, `function`, `find`, `replace` and,
            when the tokens are not unique in the function, `before`: the text directly before them.
        read: Returns the text of a source file, by its path in the tree.

    Raises:
        UsageError: The tokens do not occur, or occur more than once.
    """
    edits = tuple(_locate(str(recipe["name"]), edit, read) for edit in recipe["edit"])
    return Mutant(f"hand/{recipe['name']}", str(recipe["area"]), str(recipe["what"]), edits)


def _locate(name: str, edit: Mapping[str, str], read: Callable[[str], str]) -> Edit:
    text = read(edit["file"])
    start, end = function_span(text, edit["function"])
    before, find = edit.get("before", ""), edit["find"]
    count = text.count(before + find, start, end)
    if count != 1:
        raise UsageError(
            f"the mutant {name} does not fit {edit['file']}: {before + find!r} is there {count} times"
            f" in {edit['function']}",
            expected="once",
            hint="add more of the text around it",
        )
    at = text.index(before + find, start, end) + len(before)
    return Edit(edit["file"], at, find, edit["replace"], edit["function"])
