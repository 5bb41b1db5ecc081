"""What of a test module crosses to the guest with a function, and what is refused by its name.

What was packed is run by the guest's own code, in this process: the same that runs there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.guest import process, wire
from harness.guest.api import uapi
from harness.remote import pickling
from tests.unit.remote import picklable


def run(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    packed = pickling.pack(function)
    crossing = ((packed.code, packed.names, packed.imports), arguments, keywords)
    arrived, given, named = wire.decode(wire.encode(crossing))
    return process.unpack(*arrived)(*given, **named)


@pytest.mark.parametrize(
    ("function", "arguments", "result"),
    [
        (picklable.constant, (), 42),
        (picklable.with_helpers, (3,), 44),
        (picklable.with_helpers, (0,), -1),
        (picklable.with_modules, ("/a/b",), ("/a/b", "[1]", 26)),
        (picklable.with_path, (), "/a/b"),
        (picklable.with_loader, (), len(uapi.MAP_TYPES)),
        (picklable.with_nested, ([1, 2],), [2, 4]),
        (picklable.with_nested_annotations, (), 41),
        (picklable.with_class, (), 42),
        (picklable.with_comprehension, (), [41, 41]),
        (picklable.with_defaults, (), 44),
        (picklable.with_annotations, (7, 8), 7),
        (picklable.with_own_import, (), "x"),
        (picklable.Holder.method, (None,), 41),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_function_takes_what_it_needs_along(function: Callable[..., Any], arguments: Any, result: Any) -> None:
    assert run(function, *arguments) == result


def test_keywords_cross() -> None:
    assert run(picklable.with_defaults, 1, more=(2, 3)) == 6


def test_nothing_but_what_is_used_goes_along() -> None:
    packed = pickling.pack(picklable.with_helpers)
    assert packed.names == {"LIMIT": 41}
    assert packed.imports == {}
    assert pickling.pack(picklable.with_modules).imports == {
        "os": ("os", ""),
        "serialiser": ("json", ""),
        "struct": ("struct", ""),
        # A number of the errno module is a plain value here.
    }


def test_a_traceback_shows_the_lines_of_the_file() -> None:
    with pytest.raises(ValueError, match="line") as caught:
        run(picklable.with_exception)
    last = caught.traceback[-1]
    assert last.path == Path(picklable.__file__)
    assert "raise ValueError" in Path(picklable.__file__).read_text().splitlines()[last.lineno]


def test_what_a_function_changes_stays_in_the_guest() -> None:
    run(picklable.with_global_counter)
    assert picklable.LIMIT == 41


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (picklable.decorated, "decorated cannot run in the guest: it is wrapped by a decorator"),
        (picklable.with_host_module, r"uses the module pytest \(pytest\), which the guest lacks"),
        (picklable.with_host_class, "it uses UsageError, and"),
        (picklable.with_handle, r"it uses HANDLE, and .* a builtins\.object"),
        (picklable.through_helper, "it uses HANDLE"),
        (picklable.with_typo, "with_typo uses undefined_name, which its module does not define"),
        (picklable.coroutine, "coroutine cannot run in the guest"),
        (picklable.Holder().method, "cannot run in the guest"),
        (picklable.Holder, "cannot run in the guest"),
        (picklable.outer(3), "it uses value from the function around it"),
        (len, "built-in function len"),
        (lambda: 1, "it is a lambda"),
    ],
)
def test_what_cannot_go_is_refused_by_name(function: Callable[..., Any], named: str) -> None:
    with pytest.raises(UsageError, match=named) as caught:
        pickling.pack(function)
    assert caught.value.expected


def test_a_function_without_a_source_is_refused() -> None:
    scope: dict[str, Any] = {}
    exec("def made(): return 1", scope)
    with pytest.raises(UsageError, match="the source of made cannot be read"):
        pickling.pack(scope["made"])
