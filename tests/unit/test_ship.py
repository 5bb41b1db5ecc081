"""What of a test module crosses to the guest with a function, and what is refused by its name.

What was packed is run by the guest's own code, in this process: the same that runs there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.guest import process, uapi, wire
from harness.remote import ship
from tests.unit import shippable


def run(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    packed = ship.pack(function)
    crossing = (packed.code, packed.names, packed.imports, arguments, keywords, False)
    return process._run_function(*wire.decode(wire.encode(crossing)))


@pytest.mark.parametrize(
    ("function", "arguments", "result"),
    [
        (shippable.constant, (), 42),
        (shippable.with_helpers, (3,), 44),
        (shippable.with_helpers, (0,), -1),
        (shippable.with_modules, ("/a/b",), ("/a/b", "[1]", 26)),
        (shippable.with_path, (), "/a/b"),
        (shippable.with_loader, (), len(uapi.MAP_TYPES)),
        (shippable.with_nested, ([1, 2],), [2, 4]),
        (shippable.with_nested_annotations, (), 41),
        (shippable.with_class, (), 42),
        (shippable.with_comprehension, (), [41, 41]),
        (shippable.with_defaults, (), 44),
        (shippable.with_annotations, (7, 8), 7),
        (shippable.with_own_import, (), "x"),
        (shippable.Holder.method, (None,), 41),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_function_takes_what_it_needs_along(function: Callable[..., Any], arguments: Any, result: Any) -> None:
    assert run(function, *arguments) == result


def test_keywords_cross() -> None:
    assert run(shippable.with_defaults, 1, more=(2, 3)) == 6


def test_nothing_but_what_is_used_goes_along() -> None:
    packed = ship.pack(shippable.with_helpers)
    assert packed.names == {"LIMIT": 41}
    assert packed.imports == {}
    assert ship.pack(shippable.with_modules).imports == {
        "os": ("os", ""),
        "serialiser": ("json", ""),
        "struct": ("struct", ""),
        # A number of the errno module is a plain value here.
    }


def test_a_traceback_shows_the_lines_of_the_file() -> None:
    with pytest.raises(ValueError, match="line") as caught:
        run(shippable.with_exception)
    last = caught.traceback[-1]
    assert last.path == Path(shippable.__file__)
    assert "raise ValueError" in Path(shippable.__file__).read_text().splitlines()[last.lineno]


def test_what_a_function_changes_stays_in_the_guest() -> None:
    run(shippable.with_global_counter)
    assert shippable.LIMIT == 41


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (shippable.decorated, "decorated cannot run in the guest: it is wrapped by a decorator"),
        (shippable.with_host_module, r"uses the module pytest \(pytest\), which is not there"),
        (shippable.with_host_class, "it uses UsageError, and"),
        (shippable.with_handle, r"it uses HANDLE, and .* a builtins\.object"),
        (shippable.through_helper, "it uses HANDLE"),
        (shippable.with_typo, "with_typo uses undefined_name, which its module does not define"),
        (shippable.coroutine, "coroutine cannot run in the guest"),
        (shippable.Holder().method, "cannot run in the guest"),
        (shippable.Holder, "cannot run in the guest"),
        (shippable.outer(3), "it uses value from the function around it"),
        (len, "built-in function len"),
        (lambda: 1, "it is a lambda"),
    ],
)
def test_what_cannot_go_is_refused_by_name(function: Callable[..., Any], named: str) -> None:
    with pytest.raises(UsageError, match=named) as caught:
        ship.pack(function)
    assert caught.value.expected


def test_a_function_without_a_source_is_refused() -> None:
    scope: dict[str, Any] = {}
    exec("def made(): return 1", scope)
    with pytest.raises(UsageError, match="the source of made cannot be read"):
        ship.pack(scope["made"])
