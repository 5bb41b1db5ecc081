"""Answers of the guest, held to what their call declares: a guest can answer anything.

:mod:`harness.guest.calls` declares the type of every call's result; mypy holds the guest's own code to it, this module
what arrives.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable
from typing import Any

from harness.guest import calls
from harness.vm.channel import broken


@functools.cache
def _declared(call: Callable[..., Any]) -> Any:
    return typing.get_type_hints(call, vars(calls))["return"]


def check(call: Callable[..., Any], answer: object) -> None:
    """Compare an answer with what its call declares.

    Args:
        call: One of :mod:`harness.guest.calls`.
        answer: What the guest sent.

    Raises:
        ProtocolBroken: It is something else.
    """
    import msgspec  # a session without tests of kernels does not load it

    try:
        msgspec.convert(answer, _declared(call))
    except msgspec.ValidationError as error:
        raise broken(f"its answer to {calls.name_of(call)} is {answer!r:.80}: {error}") from None
