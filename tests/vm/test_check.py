"""`harness check`: a user's object on kernels. Each case stands for a kind of object that a loader meets."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.check import kernels
from harness.check.plan import Loader, Plan, parse_map, parse_place, parse_template, parse_variable
from harness.check.results import Author, Kind, Result, Verdict
from harness.check.trial import LogWatch
from harness.cli import main
from harness.errors import InfrastructureError
from harness.kernel.types import Choice
from harness.kernel.version import KernelVersion
from harness.machines.pool import Pool, Settings
from harness.remote.libbpf import Libbpf
from harness.util import architecture, workers
from harness.vm.machine import Machine
from tests.needs import needs_program
from tests.processes import has_ended, wait_until
from tests.vm.provoke import provoke

# The objects here use what came up to that version: names and ids of maps, raw tracepoints, batches, read-only data.
pytestmark = pytest.mark.kernel(">=5.10")

OBJECTS = Path(__file__).parent / "objects"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool(Settings(), print)
    yield made
    made.close()


class Checks:
    def __init__(self, pool: Pool, choice: Choice) -> None:
        self.pool = pool
        self.choice = choice

    def __call__(self, name: str, **settings: object) -> dict[str, Result]:
        """Return the results of an object of the folder by row."""
        loader = settings.pop("loader", Loader())
        assert isinstance(loader, Loader)
        plan = replace(Plan(OBJECTS / f"{name}.bpf.c", loader=loader), **settings)  # type: ignore[arg-type]
        one = kernels.prepare(plan, architecture.require(self.choice.architecture))
        results = kernels.check(self.pool, self.choice, one)
        for lost in (one for one in results if one.verdict is Verdict.LOST):
            raise InfrastructureError(lost.line, expected="an answer for each row")
        return {"object" if one.kind is Kind.OBJECT else one.program: one for one in results}


@pytest.fixture
def checked(pool: Pool, kernel_choice: Choice) -> Checks:
    return Checks(pool, kernel_choice)


def cells(rows: dict[str, Result]) -> dict[str, str]:
    return {name: one.cell for name, one in rows.items() if name != "object"}


def test_an_object_of_maps_alone_has_a_row(checked: Checks) -> None:
    rows = checked("maps_only")
    assert cells(rows) == {"maps": "EINVAL"}
    assert rows["maps"].line.startswith("map 'out': failed to create inner map")
    assert rows["object"].verdict is Verdict.REFUSED


@pytest.mark.parametrize(
    ("name", "programs"),
    [
        ("prog_array_values", ["leaf", "root"]),
        ("pinned_devmap", ["one", "two"]),
        ("loop_50000", ["big"]),
        ("kconfig_hz", ["hz"]),
    ],
)
def test_what_loads_whole_is_taken(checked: Checks, name: str, programs: list[str]) -> None:
    assert cells(checked(name)) == dict.fromkeys(programs, "ok")


def test_one_program_of_an_object_may_need_another(checked: Checks) -> None:
    assert cells(checked("prog_array_values", programs=("root",))) == {"root": "ok"}


def test_a_log_that_is_too_large_is_not_the_verdict(checked: Checks) -> None:
    big = checked("loop_200000")["big"]
    assert (big.cell, big.author) == ("E2BIG", Author.KERNEL)
    assert big.line.startswith("BPF program is too large")


def test_the_reason_is_what_the_verifier_says_last(checked: Checks) -> None:
    rows = checked("verifier_words")
    assert cells(rows) == {"bad": "EACCES", "gpl": "ok", "uninit": "EACCES"}
    assert rows["bad"].line.startswith("R0 invalid mem access 'map_value_or_null'")
    assert rows["uninit"].line.startswith("invalid bpf_context access off=0 size=8")
    assert rows["object"].line.startswith("bad: R0 invalid mem access")


def test_the_reason_is_why_a_map_was_refused(checked: Checks) -> None:
    rows = checked("array_without_elements")
    assert cells(rows) == {"maps": "EINVAL", "p": "EINVAL"}
    for row in ("maps", "p"):
        assert rows[row].line.startswith("map 'none': failed to create: Invalid argument")
        assert rows[row].author is Author.KERNEL


def test_maps_are_sized_as_the_loader_does_it(checked: Checks) -> None:
    template = (parse_template("rings=ringbuf:0:0:4096"),)
    rows = checked("sized_by_loader", templates=template)
    assert cells(rows) == {"maps": "EINVAL", "p": "EINVAL"}
    assert "--map rings:max_entries=N" in rows["maps"].hint
    settings = tuple(one for text in ("rings:max_entries=8", "percpu:max_entries=2") for one in parse_map(text))
    assert cells(checked("sized_by_loader", templates=template, maps=settings)) == {"p": "ok"}
    whole = checked("sized_by_loader", templates=(parse_template("rings=ringbuf:0:0:100"),))["object"]
    assert (whole.cell, whole.step, whole.author) == ("EINVAL", "prepare", Author.KERNEL)
    assert (whole.line, whole.hint) == ("map 'rings': failed to create inner map: EINVAL", "")


def test_the_memory_of_the_guest_is_not_the_kernels_answer(checked: Checks) -> None:
    row = checked("map_of_256_mb")["p"]
    assert (row.cell, row.author) == ("harness", Author.HARNESS)
    assert "256 MiB" in row.hint
    assert cells(checked("map_of_256_mb", memory=1024)) == {"p": "ok"}


def test_what_the_library_refuses_is_the_librarys(checked: Checks) -> None:
    newer = checked("section_newer_than_libbpf")
    if newer["t"].verdict is not Verdict.OK:  # a library from 1.3 on knows this section
        assert (newer["fine"].cell, newer["t"].cell) == ("ok", "libbpf")
        assert newer["t"].by.startswith("libbpf v1.")
    legacy = checked("legacy_maps")["object"]
    assert (legacy.author, legacy.step) == (Author.LIBBPF, "open")
    assert "EOPNOTSUPP at open by libbpf v" in legacy.reason


def test_a_program_that_kills_its_loader_has_its_own_row(checked: Checks) -> None:
    rows = checked("third_kills_its_loader", attach=True)
    assert cells(rows) == {"a1": "ok", "a2": "ok", "killer": "killed", "a4": "ok", "a5": "ok"}
    assert rows["killer"].line == "the process was killed by signal 9"
    assert [rows[name].step for name in ("a1", "a5", "killer")] == ["attach"] * 3


def test_a_load_that_takes_too_long_costs_no_other_row(checked: Checks) -> None:
    rows = checked("one_is_slow", load_timeout=3.0)
    assert (rows["a1"].cell, rows["a3"].cell) == ("ok", "ok")
    assert rows["slow"].cell == "took too long"


def test_what_was_not_tried_is_not_refused(checked: Checks) -> None:
    rows = checked("attach_mixed", attach=True)
    nowhere = [name for name in "drop shape gate sock skp pe up kp tpbare".split() if rows[name].step == "load"]
    assert len(nowhere) == 9
    assert {rows[name].verdict for name in nowhere} == {Verdict.OK}
    assert {rows[name].line for name in nowhere} == {"loaded; its section does not say where to attach"}
    # Programs of the type syscall came with 5.14.
    assert rows["sc"].cell == ("EINVAL" if checked.choice.version < KernelVersion.parse("5.14") else "ok")
    assert [(rows[name].cell, rows[name].step) for name in ("fine", "tpfull")] == [("ok", "attach")] * 2
    assert (rows["kpno"].author, rows["up2"].author) == (Author.KERNEL, Author.HARNESS)


def test_programs_are_attached_where_the_user_says(checked: Checks) -> None:
    places = tuple(parse_place(text) for text in ("xdp=lo", "cgroup=/", "socket"))
    rows = checked("attach_mixed", attach=True, places=places, programs=("drop", "gate", "sock", "shape"))
    assert {name: one.step for name, one in rows.items() if name != "object"} == {
        "drop": "attach",
        "gate": "attach",
        "sock": "attach",
        "shape": "load",
    }
    assert set(cells(rows).values()) == {"ok"}
    assert rows["drop"].line == "attached to xdp lo"
    places = tuple(parse_place(text) for text in ("xdp=eth9", "cgroup=/none"))
    rows = checked("attach_mixed", attach=True, places=places, programs=("drop", "gate"))
    assert {name: (one.cell, one.step, one.line) for name, one in rows.items() if name != "object"} == {
        "drop": ("harness", "attach", "the guest has no interface eth9"),
        "gate": ("harness", "attach", "the guest has no cgroup /none"),
    }


@pytest.mark.kernel(">=5.10,<6.19")  # Debian's later packages come without modules
def test_programs_are_attached_to_a_pair_of_interfaces(checked: Checks) -> None:
    places = tuple(parse_place(text) for text in ("xdp=veth0", "tc=veth1"))
    rows = checked("attach_mixed", attach=True, places=places, programs=("drop", "shape"))
    assert {name: (one.cell, one.step) for name, one in rows.items() if name != "object"} == {
        "drop": ("ok", "attach"),
        "shape": ("ok", "attach"),
    }


def test_a_relocation_that_fails_names_the_field(checked: Checks) -> None:
    rows = checked("core_field")
    assert rows["known"].cell == "ok"
    assert (rows["unknown"].verdict, rows["unknown"].author) == (Verdict.REFUSED, Author.KERNEL)
    assert "CO-RE relocation" in rows["unknown"].line
    assert "task_struct.no_such_field" in rows["unknown"].line


def test_global_variables_have_the_value_that_a_loader_gives(checked: Checks) -> None:
    assert cells(checked("variables")) == {"maps_the_value": "EACCES"}
    given = tuple(parse_variable(text) for text in ("limit=3", "name=lo", "late=true"))
    assert cells(checked("variables", variables=given)) == {"maps_the_value": "ok"}


@pytest.mark.parametrize(
    ("words", "settings", "verdict", "line"),
    [
        (("loader_panic.py",), {}, Verdict.CRASHED, "Kernel panic - not syncing: sysrq triggered crash"),
        (("loader_forever.py", "{object}"), {"timeout": 2.0}, Verdict.HUNG, "it still ran after 2 s"),
        (("loader_forever.py", "{object}"), {"until": "attached"}, Verdict.OK, ""),
        (("loader_forever.py", "{object}"), {"until": "detached", "timeout": 2.0}, Verdict.FAILED, "did not print"),
        (("loader_forever.py", "{object}"), {"alive": 1.0}, Verdict.OK, ""),
        (("loader_forever.py",), {"alive": 1.0}, Verdict.OK, ""),
        (("loader_gives_up.py",), {}, Verdict.FAILED, "ValueError: no such thing"),
        (("loader_gives_up.py",), {"alive": 30.0}, Verdict.FAILED, "it ended within 30 s: ValueError"),
    ],
)
def test_a_loader_of_the_users_runs_beside_the_object(
    checked: Checks, words: tuple[str, ...], settings: dict[str, float], verdict: Verdict, line: str
) -> None:
    loader = Loader((str(OBJECTS / words[0]), *words[1:]), **settings)  # type: ignore[arg-type]
    rows = checked("kconfig_hz", loader=loader)
    assert rows["hz"].cell == "ok"
    ran = rows[words[0]]
    assert (ran.verdict, ran.step, ran.kind) == (verdict, "run", Kind.LOADER)
    assert line in ran.line


def test_a_loader_that_the_guest_has_no_memory_for_is_not_to_blame(checked: Checks) -> None:
    row = checked("kconfig_hz", loader=Loader((str(OBJECTS / "loader_eats_memory.py"),)))["loader_eats_memory.py"]
    assert (row.verdict, row.author, row.cell) == (Verdict.KILLED, Author.HARNESS, "killed")
    assert "the guest's memory was used up" in row.line
    assert "--memory 1024" in row.hint


@pytest.mark.kernel(">=5.10:cloud")
@pytest.mark.expects_fault("taint", reason="the trial has read the warning; its flag is left")
def test_a_fault_during_a_trial_is_seen(vm: Machine) -> None:
    watch = LogWatch(vm)
    assert watch.faults() == ()
    provoke(vm, "warn")
    # 6.12 warns twice of the same mistake.
    assert {title.partition(":")[0] for title in watch.faults()} == {"WARN"}
    assert watch.faults() == ()


def test_the_command_prints_a_table_and_ends_with_a_status(
    tmp_path: Path, kernel_choice: Choice, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel, source = kernel_choice.label, str(OBJECTS / "verifier_words.bpf.c")
    assert main(["check", source, "--kernel", kernel, "--format", "json"]) == 1
    records = json.loads(capsys.readouterr().out)
    assert [(record["program"], record["verdict"]) for record in records[1:]] == [
        ("bad", "refused"),
        ("gpl", "ok"),
        ("uninit", "refused"),
    ]
    assert "processed" in records[1]["message"]
    assert main(["check", source, "--kernel", kernel, "--program", "gpl"]) == 0
    assert re.match(r" +\S+\ngpl +ok", capsys.readouterr().out)
    assert main(["check", source, "--kernel", kernel, "--program", "none"]) == 2
    assert "bad, gpl, uninit" in capsys.readouterr().err


def test_the_image_holds_libbpf(libbpf: Libbpf) -> None:
    assert libbpf.version.startswith("v1.")


def test_a_setting_of_the_kernels_configuration_is_known_to_libbpf(
    libbpf: Libbpf, bpf_object: Callable[[Path], Path]
) -> None:
    with libbpf.open(bpf_object(OBJECTS / "kconfig_hz.bpf.c")) as obj:
        obj.load()
        assert obj.prog("hz").run().retval in (100, 250, 300, 1000)


@pytest.mark.parametrize("name", ["bpf_kprobe", "vmlinux_angled"])
def test_sources_compile_with_what_clang_is_usually_given(checked: Checks, name: str) -> None:
    needs_program("/usr/include/bpf/bpf_helpers.h")
    assert set(cells(checked(name)).values()) == {"ok"}


def test_objects_are_tried_at_once_and_an_interrupt_leaves_nothing(tmp_path: Path, kernel_choice: Choice) -> None:
    config = tmp_path / "check.toml"
    config.write_text(
        f"kernel = ['{kernel_choice.label}']\nrun-loader = '{OBJECTS}/loader_forever.py {{object}}'\n"
        f"[[object]]\npath = '{OBJECTS}/kconfig_hz.bpf.c'\n[[object]]\npath = '{OBJECTS}/loop_50000.bpf.c'\n"
    )
    command = [sys.executable, "-c", "from harness.cli import main; raise SystemExit(main())", "check"]
    with tempfile.TemporaryDirectory(prefix="harness-") as runtime:
        Path(runtime).chmod(0o755)  # QEMU runs as another user
        process = subprocess.Popen(
            [*command, "--config", str(config)],
            env={**os.environ, "XDG_RUNTIME_DIR": runtime},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            at_once = min(2, workers.processors())
            wait_until(lambda: len(children(process.pid, "qemu")) == at_once, about="machines at once")
            qemus = children(process.pid, "qemu")
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
            said = process.communicate(timeout=120)
            assert (process.returncode, said[0]) == (130, "")
            assert [pid for pid in qemus if not has_ended(pid)] == []
            assert [*Path(runtime).glob("*/*run-*")] == []
        finally:
            process.kill()
            process.communicate()


def children(pid: int, name: str) -> list[int]:
    """Return the processes of a name that a process, or a child of its, has started."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            words = Path(f"/proc/{child}/cmdline").read_bytes()
            found += [child] if name.encode() in words.partition(b"\0")[0] else children(child, name)
    return found
