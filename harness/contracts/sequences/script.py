"""A sequence written down as a test that can be pasted into a file.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.contracts.sequences.facts import OuterSetting
from harness.contracts.sequences.model import Step
from harness.guest.steps import KINDS, OPERATIONS


def script(setting: OuterSetting, steps: Sequence[tuple[Step, Any]], remark: str) -> str:
    """Return a sequence as a test that can be pasted into a file.

    Args:
        setting: The outer map.
        steps: The steps up to the one that is spoken of, and what each was answered.
        remark: What is to be said of the last one.
    """
    writer = _Writer({step.arguments[0] for step, _ in steps if step.name == "reopen"})
    flags = f", map_flags={setting.flags}" if setting.flags else ""
    writer.create(0)
    writer.body.append(f'outer = bpf.map("{setting.outer}", max_entries={setting.max_entries}, inner=map0{flags})')
    if any(step.name == "reopen_outer" for step, _ in steps):
        writer.body.append("outer_id = outer.id")
    for step, answer in steps:
        writer.write(step)
        if isinstance(answer, str) and answer != "ok":
            writer.refused(answer)
    head = ["from harness.testing import Bpf, errno_of"]
    if any(step.name == "load" for step, _ in steps):
        head.append("from harness.guest.steps import reader")
    lines = [*sorted(head), "", "", "def test_sequence(bpf: Bpf) -> None:", *(f"    {line}" for line in writer.body)]
    return "\n".join([*lines, *(f"    # {line}" for line in remark.split("; "))])


class _Writer:
    """Writes steps as lines of Python; a map that was opened again has further names."""

    def __init__(self, reopened: set[int]) -> None:
        self.body: list[str] = []
        self.names: dict[int, list[str]] = {}
        self.outer = ["outer"]
        self.reopened = reopened

    def write(self, step: Step) -> None:
        """Write a step."""
        if OPERATIONS[step.name].line:
            self.call(step)
        else:
            getattr(self, step.name)(*step.arguments)

    def refused(self, answer: str) -> None:
        """Say that the last line is refused, and how."""
        target, _, call = self.body.pop().rpartition(" = ")
        function, _, arguments = call.removesuffix(")").partition("(")
        given = f"{function}, {arguments}" if arguments else function
        self.body.append(f'assert errno_of({given}) == "{answer}"' + (f"  # {target}" if target else ""))

    def create(self, kind: int) -> None:
        type_, value_size, max_entries = KINDS[kind]
        number = len(self.names)
        self.names[number] = [f"map{number}"]
        self.body.append(f'map{number} = bpf.map("{type_}", value_size={value_size}, max_entries={max_entries})')
        if number in self.reopened:
            self.body.append(f"map{number}_id = map{number}.id")

    def close(self, number: int) -> None:
        self.body.append(f"{self.names[number].pop()}.close()")

    def reopen(self, number: int) -> None:
        name = f"map{number}" + "_again" * (len(self.names[number]) or 1)
        self.names[number].append(name)
        self.body.append(f"{name} = bpf.map_by_id(map{number}_id)")

    def close_outer(self) -> None:
        self.body.append(f"{self.outer.pop()}.close()")

    def reopen_outer(self) -> None:
        name = "outer" + "_again" * (len(self.outer) or 1)
        self.outer.append(name)
        self.body.append(f"{name} = bpf.map_by_id(outer_id)")

    def load(self) -> None:
        self.body.append(f'prog = bpf.prog("xdp", reader({self.outer[-1]}.fd))')

    def call(self, step: Step) -> None:
        operation = OPERATIONS[step.name]
        maps = [self.names[number][-1] if self.names[number] else "" for number in operation.maps(step.arguments)]
        line = operation.line.format(
            *step.arguments,
            outer=self.outer[-1] if self.outer else "outer",
            map=maps[0] if maps else "",
            pairs=", ".join(f"({key}, {name})" for key, name in zip(step.arguments[::2], maps, strict=False)),
            numbers=list(step.arguments),
        )
        self.body.append(line)
