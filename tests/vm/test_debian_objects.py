"""`harness check` on objects that other projects have built, from Debian's packages.

`debian_objects.toml` has what each kernel answers. Objects of another version of a package have other programs: of
these only what holds for all is asserted, that each refusal has an author and a reason.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.check import kernels
from harness.check.object_file import read_object
from harness.check.plan import Plan
from harness.check.results import Kind, Result, Verdict
from harness.check.trials import Trials
from harness.kernel.types import Choice
from harness.machines.pool import Pool, Settings, is_healthy
from harness.util.data import read_user_toml
from harness.vm.machine import Machine
from harness.vm.spec import Needs
from tests.needs import needs_program

pytestmark = pytest.mark.kernel(">=5.10")

TABLE: list[dict[str, Any]] = read_user_toml(Path(__file__).parent / "debian_objects.toml")["object"]
_EM_BPF = 247


def file_of(entry: dict[str, Any]) -> Path | None:
    """Return the file of an entry, whatever its name is in this release of Debian; None where its package has none.

    Debian 13's libbpf-tools (0.31.0) calls the programs biolatency-libbpf and so on.
    """
    names = (Path(entry["file"]), Path(f"{entry['file']}-libbpf"))
    return next((path for path in names if path.exists()), None)


def embedded(program: bytes) -> bytes:
    """Return the BPF object that a program has in its data, as `bpftool gen skeleton` puts it there."""
    at = program.find(b"\x7fELF", 1)
    while at >= 0:
        head = program[at : at + 64]
        if len(head) == 64 and struct.unpack_from("<H", head, 18)[0] == _EM_BPF:
            sections, size, count = struct.unpack_from("<Q", head, 40)[0], *struct.unpack_from("<HH", head, 58)
            return program[at : at + sections + size * count]
        at = program.find(b"\x7fELF", at + 1)
    raise AssertionError("the program has no BPF object in it")


class OneMachine(kernels.PoolMachines):
    """The same machine as long as it is healthy: each trial has a process of its own there."""

    def __init__(self, pool: Pool, choice: Choice) -> None:
        super().__init__(pool, choice, Needs())
        self._kept: Machine | None = None

    def take(self) -> Machine:
        if self._kept is None:
            self._kept = super().take()
        return self._kept

    def give_back(self, machine: Machine) -> None:
        if is_healthy(machine):
            machine.leak_snapshot()  # ends the trial's process
        else:
            self._kept = None
            super().give_back(machine)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool(Settings(), print)
    yield made
    made.close()


def told(rows: list[Result]) -> dict[str, str]:
    """Return what was not taken, by row: the cell, the author and the reason."""
    whole = [one for one in rows if one.kind is Kind.OBJECT and not one.is_good]
    refused = [one for one in rows if one.kind is not Kind.OBJECT and not one.is_good] or whole
    return {one.program: f"{one.cell}, {one.author.value}: {one.line}" for one in refused if one.author is not None}


def check_all(pool: Pool, choice: Choice, folder: Path, entries: list[dict[str, Any]]) -> None:
    machines = OneMachine(pool, choice)
    wrong: dict[str, object] = {}
    tried = set()
    for entry in entries:
        needs_program(entry["need"])
        file = file_of(entry)
        if file is None:  # a program comes and goes with the version of its package
            continue
        tried.add(entry["need"])
        data = file.read_bytes()
        path = folder / entry["name"]
        path.write_bytes(data if file.suffix == ".o" else embedded(data))
        rows = Trials(machines, Plan(path), read_object(path), choice.label).all()
        unclear = [one for one in rows if one.verdict not in (Verdict.OK, Verdict.REFUSED)]
        silent = [one for one in rows if not one.is_good and (one.author is None or not one.line)]
        assert (unclear, silent) == ([], []), entry["name"]
        expected = entry["refused"].get(choice.label)
        if expected is not None and hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]:
            found = told(rows)
            differ = {
                row: (found.get(row, "ok"), expected.get(row, "ok"))
                for row in found.keys() | expected.keys()
                if expected.get(row, "ok") not in found.get(row, "ok")
            }
            wrong |= {entry["name"]: differ} if differ else {}
    assert tried == {entry["need"] for entry in entries}, "a package has none of its objects any more"
    assert wrong == {}


def test_objects_of_other_projects(pool: Pool, kernel_choice: Choice, tmp_path: Path) -> None:
    check_all(pool, kernel_choice, tmp_path, [entry for entry in TABLE if entry["quick"]])


@pytest.mark.long
def test_all_objects_of_other_projects(pool: Pool, kernel_choice: Choice, tmp_path: Path) -> None:
    check_all(pool, kernel_choice, tmp_path, TABLE)
