"""Functions that go to the guest: what they use goes along, and what cannot go is named."""

from __future__ import annotations

import ensurepip
import errno
import os
import xml.etree.ElementTree  # noqa: ICN001 - reached through its package, as many do
from pathlib import Path
from typing import Any

import pytest
import rich

from harness.errors import UsageError
from harness.guest.process import unpack
from harness.remote import pickling

FACTOR = 3
HANDLE = object()


def helper(value: int) -> int:
    return value * FACTOR


def uses_helper(value: int, *, more: int = 1) -> tuple[int, str, int]:
    return helper(value) + more, os.fspath("a"), errno.ENOENT


def recurses(depth: int) -> int:
    return 0 if depth == 0 else 1 + recurses(depth - 1)


def uses_object() -> object:
    return HANDLE


def uses_foreign_module() -> object:
    return rich.get_console()


def uses_class_of_library(path: str) -> str:
    return Path(path).name


def arrive(function: Any, *arguments: Any, **keywords: Any) -> Any:
    pickled = pickling.pack(function)
    return unpack(pickled.code, pickled.names, pickled.imports)(*arguments, **keywords)


def test_a_function_takes_along_what_it_uses() -> None:
    assert arrive(uses_helper, 5, more=2) == (17, "a", 2)
    assert arrive(recurses, 4) == 4
    assert arrive(uses_class_of_library, "/a/c") == "c"


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (uses_object, "HANDLE"),
        (uses_foreign_module, "rich"),
        (lambda: 1, "def"),
        (len, "len"),
    ],
)
def test_what_cannot_go_is_refused_by_name(function: Any, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        pickling.pack(function)


def test_a_function_with_values_of_the_one_around_it_is_refused() -> None:
    around = 1

    def inner() -> int:
        return around

    with pytest.raises(UsageError, match="around"):
        pickling.pack(inner)


def uses_a_submodule() -> object:
    return xml.etree.ElementTree.fromstring("<a/>").tag


def test_a_submodule_that_is_reached_through_its_package_goes_along() -> None:
    assert pickling.pack(uses_a_submodule).imports == {
        "xml": ("xml", ""),
        "xml.etree": ("xml.etree", ""),
        "xml.etree.ElementTree": ("xml.etree.ElementTree", ""),
    }


def imports_inside() -> None:
    from tkinter import Tk

    Tk()


def uses_outside() -> object:
    return ensurepip.version()


@pytest.mark.parametrize(("function", "module"), [(imports_inside, "tkinter"), (uses_outside, "ensurepip")])
def test_a_module_that_does_not_work_in_a_guest_is_refused(function: Any, module: str) -> None:
    with pytest.raises(UsageError, match=f"{function.__name__} cannot run in the guest: the module {module} does not"):
        pickling.pack(function)
