"""The error tree: every message whole, every error fit to travel between processes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from harness import errors
from harness.errors import GuestCallError, GuestError, GuestProcessDied, HarnessError, InfrastructureError, UsageError
from harness.remote.command import BpfError
from harness.vm.channel import ChannelClosed


def tree(root: type[HarnessError]) -> Iterator[type[HarnessError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


SPECIAL: dict[type[HarnessError], HarnessError] = {
    GuestCallError: GuestCallError("ValueError: no", type_name="ValueError", traceback="Traceback\n", errno=22),
    GuestProcessDied: GuestProcessDied("it ended", status=9, detail="console"),
    BpfError: BpfError(22, "MAP_CREATE", {"key_size": 4}),
}


def example(kind: type[HarnessError]) -> HarnessError:
    return SPECIAL.get(kind) or kind("what", expected="expected", hint="hint", detail="one\ntwo\n")


@pytest.mark.parametrize("kind", sorted(set(tree(HarnessError)), key=str))
def test_an_error_travels_between_processes_whole(kind: type[HarnessError]) -> None:
    error = example(kind)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert copy.args == error.args


def test_a_message_says_what_was_expected_and_what_to_do() -> None:
    assert str(ChannelClosed("what", expected="this", hint="do", detail="one\ntwo\n")) == (
        "what\n  expected: this\n  next step: do\n  | one\n  | two"
    )
    assert str(HarnessError("what")) == "what"


def test_the_three_families_are_apart_and_have_statuses_of_their_own() -> None:
    families = [UsageError, InfrastructureError, GuestError]
    for kind in tree(HarnessError):
        if kind is not HarnessError:
            assert len([family for family in families if issubclass(kind, family)]) == 1, kind
    assert [family.exit_status for family in families] == [2, 3, 1]


def test_the_drawing_of_the_tree_names_every_error_of_the_module() -> None:
    for kind in tree(HarnessError):
        if kind.__module__ == "harness.errors":
            assert kind.__name__ in (errors.__doc__ or "")
