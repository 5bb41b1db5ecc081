"""Functions that test_ship sends to the guest, or tries to."""

from __future__ import annotations

import functools
import json as serialiser
import os
import struct
from collections.abc import Callable
from errno import EINVAL
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.guest.api import uapi as raw

LIMIT = 41
TABLE = {"a": (1, 2)}
HANDLE = object()


def constant() -> int:
    return LIMIT + 1


def helper(number: int) -> int:
    return number + LIMIT if number else other_helper(number)


def other_helper(number: int) -> int:
    return -1 if number == 0 else helper(number - 1)


def with_helpers(number: int) -> int:
    return helper(number)


def with_modules(path: str) -> tuple[str, str, int]:
    return os.fsdecode(path), serialiser.dumps([1]), struct.calcsize("I") + EINVAL


def with_path() -> str:
    return str(Path("/a") / "b")


def with_loader() -> int:
    return len(raw.MAP_TYPES)


def with_nested(numbers: list[int]) -> list[int]:
    def doubled(number: int) -> int:
        return number * len(TABLE["a"])

    return [doubled(number) for number in numbers]


def with_nested_annotations() -> int:
    def typed(item: pytest.Item) -> pytest.Item:
        return item

    return typed(LIMIT)  # type: ignore[return-value,arg-type]


def with_class() -> int:
    class Counter:
        start = LIMIT
        end = start + 1

    return Counter.end


def with_comprehension() -> list[int]:
    return [LIMIT for _ in range(2)]


def with_defaults(number: int = LIMIT, *, more: tuple[int, ...] = TABLE["a"]) -> int:
    return number + sum(more)


def with_annotations(number: UsageError | Callable[[], Any], *more: pytest.Item, **most: pytest.Item) -> pytest.Item:
    result: pytest.Item = number  # type: ignore[assignment]
    return result


def announce(function: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(function)
    def wrapper(*arguments: int) -> int:
        return function(*arguments) + 1

    return wrapper


@announce
def decorated(number: int) -> int:
    return number + LIMIT


def with_own_import() -> str:
    import textwrap

    return textwrap.dedent(" x")


def with_exception() -> None:
    raise ValueError("line 95 of this file")


def with_host_module() -> None:
    pytest.fail("never there")


def with_host_class() -> None:
    raise UsageError("never there")


def with_handle() -> object:
    return HANDLE


def with_typo() -> int:
    return undefined_name  # type: ignore[name-defined,no-any-return]  # noqa: F821


def through_helper() -> object:
    return with_handle()


def with_global_counter() -> None:
    global LIMIT
    LIMIT += 1


async def coroutine() -> None: ...


def generator() -> Any:
    yield LIMIT


class Holder:
    def method(self) -> int:
        return LIMIT


def outer(value: int) -> Callable[[], int]:
    def inner() -> int:
        return value

    return inner
