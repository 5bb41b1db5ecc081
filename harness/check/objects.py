"""Tries a user's object on a machine: each program alone, and the user's loader, if there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.check.table import Result, Verdict
from harness.errors import GuestError, HarnessError, KernelCrashed, UsageError
from harness.guest.api.uapi import MAP_TYPES
from harness.remote.bpf import Bpf
from harness.remote.command import BpfError
from harness.remote.guest import Guest
from harness.remote.libbpf import BpfObject, Libbpf
from harness.vm.machine import Machine

GUEST_FOLDER = "/tmp/check"  # noqa: S108 - a folder of the guest, in memory
PYTHON = "/usr/bin/python3"
OBJECT_WORD = "{object}"


@dataclass(frozen=True)
class Template:
    """A template for an outer map that has none in the object.

    Attributes:
        outer: The outer map's name.
        type: "hash", "array", ...
        key_size: Bytes.
        value_size: Bytes.
        max_entries: Elements.
        map_flags: Flags.
    """

    outer: str
    type: str
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int = 0


def parse_template(text: str) -> Template:
    """Read OUTER=TYPE:KEY_SIZE:VALUE_SIZE:MAX_ENTRIES[:FLAGS], such as "traced=hash:4:4:8".

    Raises:
        UsageError: It has another form.
    """
    outer, _, rest = text.partition("=")
    kind, *numbers = rest.split(":")
    try:
        sizes = [int(number, 0) for number in numbers]
    except ValueError:
        sizes = []
    if not outer or kind not in MAP_TYPES or len(sizes) not in (3, 4) or any(size < 0 for size in sizes):
        raise UsageError(
            f"{text!r} does not describe an inner map",
            expected="OUTER=TYPE:KEY_SIZE:VALUE_SIZE:MAX_ENTRIES[:FLAGS], such as traced=hash:4:4:8",
            hint=f"types are {', '.join(MAP_TYPES)}" if kind not in MAP_TYPES else "",
        )
    return Template(outer, kind, *sizes)


@dataclass(frozen=True)
class Plan:
    """The plan of a check.

    Attributes:
        path: The object.
        templates: Templates for outer maps that have none in the object.
        programs: Programs to try; default: all.
        attach: Whether to attach the loaded programs.
        command: The user's loader: a program or Python script of the host, and its arguments; "{object}" is replaced
            by the object's path in the guest. () for none.
    """

    path: Path
    templates: tuple[Template, ...] = ()
    programs: tuple[str, ...] = ()
    attach: bool = False
    command: tuple[str, ...] = ()


def check(machine: Machine, plan: Plan, label: str) -> list[Result]:
    """Try everything on one machine.

    Args:
        machine: The machine; it may be dead afterwards.
        plan: The plan.
        label: The kernel's name in results.

    Raises:
        UsageError: The object cannot be read or has no such program, or the loader cannot be sent.
        InfrastructureError: The machine was lost.
    """
    data = read_object(plan.path)
    results: list[Result] = []
    try:
        names = _programs(machine, plan, data, label, results)
        results += [_try_program(machine, plan, data, name, label) for name in names]
        if plan.command:
            results.append(_run_loader(machine, plan, label))
    except KernelCrashed as error:
        results.append(Result(label, plan.path.name, Verdict.CRASHED, "load", message=str(error)))
    return results


def read_object(path: Path) -> bytes:
    """Return an object's content.

    Raises:
        UsageError: It cannot be read, or is not an ELF file.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the BPF object {path} cannot be read: {error.strerror}", expected="an object file"
        ) from error


def _open(machine: Machine, plan: Plan, data: bytes) -> tuple[Bpf, BpfObject]:
    bpf = Bpf(machine.new_process())
    return bpf, Libbpf(bpf.commands).open(data, plan.path.name.partition(".")[0])


def _programs(machine: Machine, plan: Plan, data: bytes, label: str, results: list[Result]) -> Sequence[str]:
    """Return the names of the programs to try; none, with a result, when the object cannot be opened."""
    try:
        bpf, obj = _open(machine, plan, data)
    except BpfError as error:
        results.append(Result(label, plan.path.name, Verdict.REFUSED, "open", error.errno, error.log))
        return ()
    known = tuple(obj.definitions.programs)
    for template in plan.templates:
        if template.outer not in obj.definitions.maps:
            raise UsageError(
                f"{plan.path} has no map {template.outer!r} for this template",
                expected=f"one of {', '.join(obj.definitions.maps)}",
            )
    unknown = sorted(set(plan.programs).difference(known))
    if unknown:
        raise UsageError(
            f"{plan.path} has no program {', '.join(unknown)}", expected=f"one of {', '.join(known) or 'none at all'}"
        )
    bpf.commands.process.close()
    return plan.programs or known


def _try_program(machine: Machine, plan: Plan, data: bytes, name: str, label: str) -> Result:
    bpf, obj = _open(machine, plan, data)
    step = "prepare"
    try:
        obj.autoload(name)
        obj.keep_log(name)
        for one in plan.templates:
            template = bpf.map(
                one.type,
                key_size=one.key_size,
                value_size=one.value_size,
                max_entries=one.max_entries,
                map_flags=one.map_flags,
            )
            obj.set_inner_map(one.outer, template)
        step = "load"
        obj.load()
        if plan.attach:
            step = "attach"
            obj.attach(name).close()
        return Result(label, name, Verdict.OK, step, message=obj.log_of(name))
    except BpfError as error:
        verifier = obj.log_of(name) if step == "load" else ""
        return Result(label, name, Verdict.REFUSED, step, error.errno, verifier or error.log)
    finally:
        bpf.commands.process.close()


def _run_loader(machine: Machine, plan: Plan, label: str) -> Result:
    guest = Guest(machine)
    program = Path(plan.command[0])
    target = guest.push(plan.path, f"{GUEST_FOLDER}/{plan.path.name}")
    if program.suffix == ".py":
        words = [PYTHON, guest.push(program, f"{GUEST_FOLDER}/{program.name}")]
    else:
        words = [guest.push_program(program)]
    given = [word.replace(OBJECT_WORD, target) for word in plan.command[1:]]
    ran = guest.run([*words, *given] if given else [*words, target], cwd=GUEST_FOLDER)
    said = ran.stderr or ran.stdout
    if ran.status == 0:
        return Result(label, program.name, Verdict.OK, "run", message=said)
    how = "took too long" if ran.timed_out else f"signal {ran.signal}" if ran.signal else f"exit status {ran.status}"
    return Result(label, program.name, Verdict.FAILED, "run", message=f"{said.rstrip()}\n{how}".lstrip())


def lost(label: str, plan: Plan, error: HarnessError) -> Result:
    """Return the result of a kernel that was unavailable or could not run."""
    verdict = Verdict.CRASHED if isinstance(error, GuestError) else Verdict.LOST
    return Result(label, plan.path.name, verdict, "start", message=error.what)
