"""What the guest saw of a sequence, beside what was foretold.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.contracts.sequences.facts import ANY
from harness.util.errnos import errno_name


def seen(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the guest saw after a step, with error numbers by their names."""
    return {**record, "answer": _named(record["answer"])}


def _named(answer: Any) -> Any:
    if isinstance(answer, int):
        return errno_name(answer) if answer else "ok"
    if isinstance(answer, (list, tuple)) and answer and isinstance(answer[0], int):
        return [_named(answer[0]), *answer[1:]]
    return answer


_WORDS = {
    "answer": "the answer",
    "outer": "what the outer map holds",
    "inners": "what the inner maps hold",
    "alive": "which maps are alive",
}


def difference(expected: Mapping[str, Any], observed: Mapping[str, Any]) -> str:
    """Return what differs between two steps, in words; "" for nothing."""
    return "; ".join(
        f"{word}: expected {_shown(expected[name])}, got {_shown(observed[name])}"
        for name, word in _WORDS.items()
        if not _equal(expected[name], observed[name])
    )


def unexplained(
    expected: tuple[Mapping[str, Any], Mapping[str, Any]], observed: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> str:
    """Return what two kernels did differently at a step that no table foretells; "" for nothing.

    Args:
        expected: What was foretold of each.
        observed: What each did.
    """
    return "; ".join(
        f"{word}: the first {_shown(observed[0][name])}, the second {_shown(observed[1][name])}"
        for name, word in _WORDS.items()
        if observed[0][name] != observed[1][name]
        and not all(
            _is_known(one[name]) and _equal(one[name], two[name]) for one, two in zip(expected, observed, strict=True)
        )
    )


def _is_known(expected: Any) -> bool:
    """Whether nothing in it is left open."""
    if isinstance(expected, (list, tuple)):
        return all(map(_is_known, expected))
    return expected is not ANY


def _equal(expected: Any, observed: Any) -> bool:
    if isinstance(expected, (list, tuple)) and isinstance(observed, (list, tuple)):
        return len(expected) == len(observed) and all(map(_equal, expected, observed))
    return bool(expected == observed)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(one)}" for key, one in sorted(value.items())) + "}"
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], str):
        return " ".join(_shown(one) for one in value)
    return str(value)
