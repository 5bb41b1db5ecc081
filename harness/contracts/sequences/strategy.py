"""Random sequences of operations on an outer map, as hypothesis draws and shrinks them.

A sequence is planned beside a model that foretells it, carried out as a whole, and judged. Who carries it out is not
known here: a guest does, or two of them side by side.

What is drawn is a row of bytes, and what they mean depends on what the model says is there: the second of the open
maps, the first of the keys in use. A zero stands for no step at all, which makes short sequences of long ones. (Rules
of hypothesis.stateful, and lists of tuples, were tried first. Hypothesis makes most examples of earlier ones by
repeating their parts: of a hundred not one put a map with BPF_NOEXIST where there was one. A row of bytes has no
parts.)

Imports hypothesis, which comes with the extra `contracts`, and the model below it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from harness.contracts.sequences.facts import SETTINGS, Facts, OuterSetting
from harness.contracts.sequences.model import Model, Step
from harness.guest.api.uapi import EXIST, NOEXIST

Foretold = Sequence[tuple[Step, dict[str, Any]]]
"""The steps of a sequence, and what the model says will be seen after each."""

Judge = Callable[[OuterSetting, Foretold], None]
"""Carries a sequence out, and raises AssertionError when something was not as foretold."""

Planned = tuple[Any, ...] | None
"""A step's name and numbers; None where the step makes no sense now. One that uses what is closed is left out later."""

STEPS = 16
MOST_MAPS = 6
_KEYS = 5
_FLAGS = (0, 0, 0, NOEXIST, EXIST, NOEXIST | EXIST)
_KINDS = (0, 0, 0, 1, 2, 3)
_SELDOM = 4
"""One in so many draws of what leaves little to be done afterwards does it."""


def _at(there: Sequence[int], number: int) -> int:
    return there[number % len(there)]


def _create(model: Model, a: int, b: int, c: int) -> Planned:
    return ("create", _at(_KINDS, a)) if len(model.maps) < MOST_MAPS else None


def _insert(model: Model, a: int, b: int, c: int) -> Planned:
    there = model.open_maps()
    return ("insert", a % _KEYS, _at(there, b), _at(_FLAGS, c)) if there else None


def _replace(model: Model, a: int, b: int, c: int, flags: int = 0) -> Planned:
    there = model.open_maps()
    if not there or not model.slots:
        return None
    return "insert", _at(sorted(model.slots), a), _at(there, b), flags


def _insert_again(model: Model, a: int, b: int, c: int) -> Planned:
    return _replace(model, a, b, c, NOEXIST)


def _replace_only(model: Model, a: int, b: int, c: int) -> Planned:
    return _replace(model, a, b, c, EXIST)


def _delete(model: Model, a: int, b: int, c: int) -> Planned:
    return "delete", a % _KEYS


def _remove(model: Model, a: int, b: int, c: int) -> Planned:
    return ("delete", _at(sorted(model.slots), a)) if model.slots else None


def _look(model: Model, a: int, b: int, c: int) -> Planned:
    return ("keys",) if b % 3 == 0 else ("lookup", a % _KEYS)


def _batch_insert(model: Model, a: int, b: int, c: int) -> Planned:
    there = model.open_maps()
    if not there or not model.can_foretell("update"):
        return None
    pairs = [(key % _KEYS, _at(there, b + key)) for key in range(a, a + 1 + c % 3)]
    return ("batch_insert", *(one for pair in pairs for one in pair))


def _batch_delete(model: Model, a: int, b: int, c: int) -> Planned:
    if not model.can_foretell("delete"):
        return None
    held = sorted(model.slots)
    return ("batch_delete", *[*held[: b % 3], a % _KEYS][: 1 + c % 3])


def _batch_read(model: Model, a: int, b: int, c: int) -> Planned:
    return ("batch_read",) if model.can_foretell("lookup") else None


def _batch_take(model: Model, a: int, b: int, c: int) -> Planned:
    return ("batch_take",) if model.can_foretell("lookup_and_delete") else None


def _close(model: Model, a: int, b: int, c: int) -> Planned:
    there = model.open_maps()
    return ("close", _at(there, a)) if there else None


def _close_held(model: Model, a: int, b: int, c: int) -> Planned:
    """Close what the outer map holds, so that nobody else does."""
    there = [number for number in model.open_maps() if number in model.slots.values()]
    return ("close", _at(there, a)) if there else None


def _reopen(model: Model, a: int, b: int, c: int) -> Planned:
    return ("reopen", a % len(model.maps)) if model.facts.ids else None


def _close_outer(model: Model, a: int, b: int, c: int) -> Planned:
    goes_on = model.outer_fds > 1 or model.loaded
    return ("close_outer",) if goes_on or c % _SELDOM == 0 else None


def _reopen_outer(model: Model, a: int, b: int, c: int) -> Planned:
    return ("reopen_outer",) if model.facts.ids else None


def _write(model: Model, a: int, b: int, c: int) -> Planned:
    there = model.counted_maps()
    return ("write", _at(there, a), b % 3, c) if there else None


def _read(model: Model, a: int, b: int, c: int) -> Planned:
    there = model.counted_maps()
    return (("read", "erase")[c % 2], _at(there, a), b % 3) if there else None


def _freeze(model: Model, a: int, b: int, c: int) -> Planned:
    there = model.counted_maps()
    return ("freeze", _at(there, a)) if there and c % _SELDOM == 0 else None


def _freeze_outer(model: Model, a: int, b: int, c: int) -> Planned:
    return ("freeze_outer",) if model.outer_frozen or c % _SELDOM == 0 else None


def _load(model: Model, a: int, b: int, c: int) -> Planned:
    return ("load",) if not model.loaded else None


def _run(model: Model, a: int, b: int, c: int) -> Planned:
    if not model.loaded:
        return None
    return "run", _at(sorted(model.slots), a) if model.slots and b % 2 else a % _KEYS


def _unload(model: Model, a: int, b: int, c: int) -> Planned:
    return ("unload",) if model.loaded else None


PLANS: tuple[Callable[[Model, int, int, int], Planned], ...] = (
    *(_insert, _replace, _create, _close_held, _remove, _write, _run, _batch_insert, _batch_take, _load),
    *(_insert, _replace, _insert_again, _close_held, _delete, _look, _read, _reopen, _batch_delete, _batch_read),
    *(
        _insert,
        _replace,
        _create,
        _close,
        _replace_only,
        _run,
        _unload,
        _close_outer,
        _reopen_outer,
        _freeze,
        _freeze_outer,
    ),
)
"""Some stand there more than once, to be drawn more often."""

_WIDTH = 4


def plan(model: Model, drawn: bytes) -> Foretold:
    """Return the sequence that a row of bytes means, and what is foretold of it.

    Args:
        model: What there is at the beginning.
        drawn: Four bytes for each step: which of PLANS, 0 for none at all, and its three numbers.
    """
    foretold = []
    for at in range(0, len(drawn), _WIDTH):
        which, *numbers = drawn[at : at + _WIDTH]
        step = PLANS[which % len(PLANS)](model, *numbers) if which else None
        if step is not None and model.can_take(*step):
            foretold.append(model.take(*step))
    return foretold


def check(setting: str, facts: Facts, judge: Judge, *, examples: int, seeded: int | str | None = None) -> None:
    """Draw sequences, have them judged, and shrink one that does not hold.

    Args:
        setting: A name of SETTINGS.
        facts: What the kernel does.
        judge: Carries a sequence out.
        examples: How many.
        seeded: Seed of the draw; None draws the same ones each time.

    Raises:
        AssertionError: What the judge said of the shortest sequence that does not hold.
    """
    outer = SETTINGS[setting]

    @settings(
        max_examples=examples,
        derandomize=seeded is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )
    @given(st.binary(min_size=STEPS * _WIDTH, max_size=STEPS * _WIDTH))
    def sequences(drawn: bytes) -> None:
        foretold = plan(Model(outer, facts), drawn)
        if foretold:
            judge(outer, foretold)

    (sequences if seeded is None else seed(seeded)(sequences))()
