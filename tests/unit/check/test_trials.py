"""Which trials are made, and which row gets which answer: a scripted kernel in place of a guest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.check.loads import Loads
from harness.check.object_file import ObjectFile
from harness.check.plan import MapSetting, Plan
from harness.check.reason import Reason, explain
from harness.check.results import Author, Result, Verdict
from harness.check.trial import Machines, TrialOutcome
from harness.check.trials import Trials
from harness.remote.libbpf import BpfObject, Definitions, MapDefinition, ProgramDefinition

NO_LOAD = Reason("the process was killed by signal 9", Author.KERNEL)
Answer = Callable[[Sequence[str], Sequence[str], int], TrialOutcome]


class Scripted(Loads):
    """Answers loads by a function of the programs that are loaded and attached, and of the log's level."""

    def __init__(self, plan: Plan, programs: str, maps: str, answer: Answer) -> None:
        super().__init__(cast("Machines", None), plan, ObjectFile(b"", "little", (), {}))
        self.definitions = Definitions(
            {name: MapDefinition(name, "array", 4, 4, 0, 0) for name in maps.split()},
            {
                name.strip("?"): ProgramDefinition(name.strip("?"), "socket", "socket_filter", autoload="?" not in name)
                for name in programs.split()
            },
        )
        self._answer = answer
        self.tried: list[str] = []

    def all(self) -> list[Result]:
        made = Trials(self._machines, self._plan, self._file, "6.1")
        made.loads = self
        return made.all()

    def _trial(self, programs: Sequence[str], attach: Sequence[str], *, level: int = 0, room: int = 0) -> TrialOutcome:
        loaded = tuple(programs or (name for name, about in self.definitions.programs.items() if about.autoload))
        self.tried.append(" ".join(loaded))
        return self._answer(loaded, attach or loaded, level)


def refused(errno: int, said: str, log: str = "") -> TrialOutcome:
    return TrialOutcome(Verdict.REFUSED, "load", errno, explain(errno, said, log))


def bad(name: str) -> TrialOutcome:
    return refused(13, f"libbpf: prog '{name}': BPF program load failed: Permission denied\n", "R0 !read_ok\n")


def cells(results: list[Result]) -> dict[str, str]:
    return {one.program: one.cell for one in results[1:]}


def trials(known: str, answer: Answer, *, maps: str = "", **settings: Any) -> Scripted:
    return Scripted(Plan(Path("x.bpf.o"), **settings), known, maps, answer)


def test_an_object_that_loads_whole_is_tried_once() -> None:
    made = trials("a b c", lambda *_: TrialOutcome())
    assert cells(made.all()) == {"a": "ok", "b": "ok", "c": "ok"}
    assert made.tried == ["a b c"]


def test_a_program_that_a_loader_need_not_load_is_not_tried() -> None:
    made = trials("a ?b c", lambda loaded, *_: bad("c") if "c" in loaded else TrialOutcome())
    rows = {one.program: one for one in made.all()}
    assert {name: rows[name].cell for name in "abc"} == {"a": "ok", "b": "ok", "c": "EACCES"}
    assert (rows["b"].step, rows["b"].line.partition(":")[0]) == ("open", "not loaded")
    assert made.tried == ["a c", "a"]
    chosen = trials("a ?b c", lambda *_: bad("b"), programs=("b",))
    assert cells(chosen.all()) == {"b": "EACCES"}


def test_a_kernel_without_global_variables_is_named() -> None:
    log = "BPF map 'x.rodata' is referenced but wasn't created\n"
    said = "libbpf: prog 'a': BPF program load failed: Invalid argument\n"
    row = trials("a b", lambda loaded, *_: refused(22, said, log) if "a" in loaded else TrialOutcome()).all()[1]
    assert (row.cell, row.author) == ("EINVAL", Author.KERNEL)
    assert "5.2" in row.hint


def test_what_was_blamed_is_left_out_until_the_rest_loads() -> None:
    made = trials("a b c d", lambda loaded, *_: next((bad(one) for one in "bd" if one in loaded), TrialOutcome()))
    results = made.all()
    assert cells(results) == {"a": "ok", "b": "EACCES", "c": "ok", "d": "EACCES"}
    assert made.tried == ["a b c d", "c d", "a c"]
    assert (results[0].verdict, results[0].line) == (Verdict.REFUSED, "b: R0 !read_ok")


def test_many_refusals_cost_no_load_of_everything_each() -> None:
    names = [f"p{number}" for number in range(20)]

    def answer(loaded: Sequence[str], *_: object) -> TrialOutcome:
        return next((bad(one) for one in loaded if int(one[1:]) % 2), TrialOutcome())

    made = trials(" ".join(names), answer)
    assert cells(made.all()) == {name: "EACCES" if int(name[1:]) % 2 else "ok" for name in names}
    assert len(made.tried) == 11
    assert sum(len(one.split()) for one in made.tried) == sum(range(2, 21, 2)) + 10


@pytest.mark.parametrize("verdict", [Verdict.KILLED, Verdict.HUNG, Verdict.CRASHED, Verdict.FAULTED])
def test_a_trial_that_does_not_say_which_program_is_repeated_with_each(verdict: Verdict) -> None:
    made = trials(
        "a b c", lambda loaded, *_: TrialOutcome(verdict, reason=NO_LOAD) if "b" in loaded else TrialOutcome()
    )
    results = made.all()
    assert cells(results) == {"a": "ok", "b": verdict.value, "c": "ok"}
    assert made.tried == ["a b c", "a", "b", "c"]
    assert results[0].verdict is verdict


def test_a_fault_of_the_whole_object_alone_stays_in_its_row() -> None:
    made = trials(
        "a b", lambda loaded, *_: TrialOutcome(Verdict.FAULTED, reason=NO_LOAD) if len(loaded) > 1 else TrialOutcome()
    )
    results = made.all()
    assert [one.verdict for one in results] == [Verdict.FAULTED, Verdict.OK, Verdict.OK]


def test_programs_behind_one_that_kills_its_loader_are_attached_on_another_machine() -> None:
    def answer(loaded: Sequence[str], attach: Sequence[str], level: int) -> TrialOutcome:
        outcome = TrialOutcome()
        for name in attach:
            outcome.attached[name] = TrialOutcome(step="attach")
            if name == "b":
                outcome.attached[name] = TrialOutcome(Verdict.KILLED, "attach", reason=NO_LOAD)
                break
        return outcome

    made = trials("a b c", answer, attach=True)
    assert cells(made.all()) == {"a": "ok", "b": "killed", "c": "ok"}
    assert made.tried == ["a b c", "a b c"]


def test_a_log_that_was_too_large_is_asked_for_in_a_short_form() -> None:
    short = refused(7, "libbpf: prog 'a': BPF program load failed\n", "BPF program is too large.\n")
    full = refused(28, "libbpf: prog 'a': BPF program load failed: No space left on device\n")
    made = trials("a", lambda _loaded, _attach, level: {0: full, 4: short}[level])
    assert cells(made.all()) == {"a": "E2BIG"}


def test_a_program_that_uses_a_refused_map_is_refused_because_of_it() -> None:
    def answer(loaded: Sequence[str], _attach: Sequence[str], _level: int) -> TrialOutcome:
        if not made.refused_maps:
            return refused(22, "libbpf: map 'm': failed to create: Invalid argument(-22)\n")
        if "uses" in loaded:
            log = "BPF map 'm' is referenced but wasn't created\n"
            return refused(22, "libbpf: prog 'uses': BPF program load failed\n", log)
        return TrialOutcome()

    made = trials("uses other", answer, maps="m")
    results = made.all()
    assert cells(results) == {"maps": "EINVAL", "uses": "EINVAL", "other": "ok"}
    assert results[2].line == "map 'm': failed to create: Invalid argument(-22)"
    assert "--map m:max_entries=N" in results[1].hint


def test_a_program_that_initial_values_name_is_loaded_too() -> None:
    slot = refused(9, "libbpf: map 'jumps': failed to initialize slot [0] to prog 'leaf' fd=-2: -9\n")
    made = trials(
        "leaf root", lambda *_: TrialOutcome() if made._companions else slot, maps="jumps", programs=("root",)
    )
    assert cells(made.all()) == {"root": "ok"}


def test_a_program_is_not_refused_for_another_that_initial_values_name() -> None:
    slot = refused(9, "libbpf: map 'jumps': failed to initialize slot [0] to prog 'leaf' fd=-2: -9\n")
    made = trials("leaf root", lambda loaded, *_: bad("leaf") if "leaf" in loaded else slot, maps="jumps")
    assert cells(made.all()) == {"leaf": "EACCES", "root": "ok"}


def test_memory_is_not_the_kernels_answer() -> None:
    said = "libbpf: map 'm': failed to create: Cannot allocate memory(-12)\n"
    made = trials("", lambda *_: refused(12, said), maps="m")
    (row,) = made.all()[1:]
    assert (row.program, row.cell, row.author) == ("maps", "harness", Author.HARNESS)
    assert row.hint == "the guest has 256 MiB of memory; more with --memory 1024"


def test_an_object_that_cannot_be_opened_has_one_row() -> None:
    outcome = TrialOutcome(Verdict.REFUSED, "open", 4001, explain(4001, "libbpf: elf: broken\n"), by="libbpf v1.1")
    (row,) = trials("", lambda *_: outcome).all()
    assert row.reason == "LIBBPF_ERRNO__FORMAT at open by libbpf v1.1: elf: broken"


def test_a_size_that_the_user_has_set_is_not_asked_for() -> None:
    said = "libbpf: map 'm': failed to create: Invalid argument(-22)\n"
    hints = [
        Scripted(Plan(Path("x.bpf.o"), maps=maps), "", "m", lambda *_: refused(22, said)).all()[-1].hint
        for maps in ((), (MapSetting("m", "max_entries", 4),))
    ]
    assert hints == ["max_entries is 0; if the loader sets it: --map m:max_entries=N", ""]


@pytest.mark.parametrize(
    ("name", "flags", "author"),
    [("x.rodata", 0x480, Author.LIBBPF), ("x.rodata", 0x80, Author.KERNEL), ("m", 0x480, Author.KERNEL)],
)
def test_a_flag_that_only_the_library_asked_for_is_its_mistake(name: str, flags: int, author: Author) -> None:
    made = trials("", lambda *_: TrialOutcome(), maps=name)
    outcome = refused(22, f"libbpf: map '{name}': failed to create: Invalid argument(-22)\n")
    now = made._with_flags(cast("BpfObject", SimpleNamespace(map_flags=lambda _: flags)), outcome)
    assert (now.reason.author, "MMAPABLE" in now.reason.line) == (author, author is Author.LIBBPF)
