"""The user's own loader: found and judged on the host before anything boots, then run in the guest."""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass, replace
from pathlib import Path

from elftools.common.exceptions import ELFError

from harness.check.plan import Loader, Plan
from harness.check.reason import output_line
from harness.check.results import Author, Kind, Result, Verdict
from harness.check.trial import ENDS, NO_MEMORY, LogWatch, Machines, ended, machine_of
from harness.errors import UsageError
from harness.image import elf, script
from harness.remote.guest import Guest
from harness.remote.program import Ran
from harness.util import architecture
from harness.util.architecture import Architecture

GUEST_FOLDER = "/tmp/check"  # noqa: S108 - a folder of the guest, in memory
OBJECT_WORD = "{object}"
_END_WITHIN = 10.0
"""Seconds in which an interrupted loader must end."""


@dataclass(frozen=True)
class Found:
    """A loader that can run in a guest.

    Attributes:
        program: The file on the host.
        interpreter: What runs it: "" for a compiled program, the guest's Python, or a compiled interpreter of the host.
        architecture: The only one whose guests can run it; None for all.
    """

    program: Path
    interpreter: str = ""
    architecture: Architecture | None = None


def find(loader: Loader) -> Found:
    """Return the loader's file and what runs it.

    Raises:
        UsageError: There is no such file, it cannot run in a guest, or one of its shared libraries is missing on this
            machine.
    """
    name = loader.words[0]
    path = Path(name) if "/" in name or Path(name).is_file() else Path(shutil.which(name) or name)
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as error:
        raise UsageError(
            f"the loader {name} cannot be read: {error.strerror}", expected="a path, or the name of a program on PATH"
        ) from error
    if head.startswith(b"\x7fELF"):
        return Found(path, architecture=_architecture_of(path))
    if path.suffix == ".py":
        return Found(path, script.PYTHON)
    starters = script.starters(head)
    if starters is None:
        raise UsageError(
            f"the loader {path} cannot run: it is neither a compiled program nor a script",
            expected="an ELF program, a script that begins with #!, or a file that ends with .py",
        )
    interpreter = starters[-1] if starters else ""
    if script.is_python(interpreter):
        return Found(path, script.PYTHON)
    compiled = shutil.which(interpreter)
    if compiled is None:
        raise UsageError(
            f"the loader {path} begins with #!{' '.join(starters)}, which this machine does not have",
            expected="an interpreter of this machine",
        )
    elf.shared_libraries([Path(compiled).resolve()])
    return Found(path, str(Path(compiled).resolve()), architecture.own())


def _architecture_of(path: Path) -> Architecture:
    """Return the architecture of a compiled program, and check that its libraries are there."""
    try:
        header = elf.read_header(path)
    except ELFError as error:
        raise UsageError(f"the loader {path} is a damaged ELF file: {error}", expected="an ELF program") from None
    found = architecture.by_elf(header.number)
    if found is None:
        raise UsageError(
            f"the loader {path} cannot run: it is a program for {header.machine}",
            expected=f"a program for one of {architecture.names()}",
        )
    # Those of another architecture come with the guest's image.
    if header.is_dynamic and found.is_own:
        elf.shared_libraries([path])
    return found


def run(machines: Machines, plan: Plan, found: Found, label: str) -> Result:
    """Run the loader on a fresh machine.

    Args:
        machines: The machines.
        plan: The plan.
        found: What :func:`find` returned.
        label: The kernel's name in results.
    """
    with machine_of(machines) as machine:
        watch = LogWatch(machine)
        result = Result(label, plan.name, found.program.name, Kind.LOADER, Verdict.OK, "run")
        try:
            ran, verdict, line = _run(Guest(machine), plan, found)
            faults = watch.faults()
        except ENDS as error:
            outcome = ended(error, "run", watch)
            lost = _with(result, outcome.verdict, outcome.reason.line, outcome.reason.author, faults=outcome.faults)
            return replace(lost, hint=plan.memory_hint) if watch.out_of_memory else lost
        said = ran.stderr or ran.stdout
        if ran.signal == signal.SIGKILL and watch.out_of_memory:
            no_memory = _with(result, Verdict.KILLED, NO_MEMORY, Author.HARNESS, said, faults)
            return replace(no_memory, hint=plan.memory_hint)
        if verdict is Verdict.OK and faults:
            return _with(result, Verdict.FAULTED, faults[0], Author.KERNEL, said, faults)
        return _with(result, verdict, line, Author.LOADER, said, faults)


def _with(
    result: Result, verdict: Verdict, line: str, author: Author, message: str = "", faults: tuple[str, ...] = ()
) -> Result:
    is_good = verdict is Verdict.OK
    return replace(
        result,
        verdict=verdict,
        author=None if is_good else author,
        by="" if is_good else author.value,
        line=line,
        message=message,
        faults=faults,
    )


def _run(guest: Guest, plan: Plan, found: Found) -> tuple[Ran, Verdict, str]:
    """Return how the loader ended, the verdict, and the line that says why."""
    loader = plan.loader
    target = guest.push(plan.path, f"{GUEST_FOLDER}/{plan.name}")
    if found.interpreter:
        target_script = guest.push(found.program, f"{GUEST_FOLDER}/{found.program.name}", mode=0o755)
        runner = found.interpreter if found.interpreter == script.PYTHON else guest.push_program(found.interpreter)
        words = [runner, target_script]
    else:
        words = [guest.push_program(found.program)]
    given = [word.replace(OBJECT_WORD, target) for word in loader.words[1:]]
    argv = [*words, *given] if given else [*words, target]
    with guest.start(argv, cwd=GUEST_FOLDER) as running:
        good = ""
        if loader.until and running.prints(loader.until, loader.timeout):
            good = f"printed {loader.until!r}"
        elif loader.alive and not running.ends(loader.alive):
            good = f"still ran after {loader.alive:g} s"
        if not good:
            ran = running.wait(timeout=0.0 if loader.until else loader.timeout)
            verdict, line = _judge(loader, ran)
            return ran, verdict, line
        running.send_signal(signal.SIGINT)
        ran = running.wait(timeout=_END_WITHIN)
        if ran.timed_out:
            return ran, Verdict.FAILED, f"it {good}, and did not end within {_END_WITHIN:g} s after SIGINT"
        return ran, Verdict.OK, ""


def _judge(loader: Loader, ran: Ran) -> tuple[Verdict, str]:
    """Return the verdict on a loader that did not do what was said to be good, and the line that says why."""
    said = output_line(ran.stdout, ran.stderr)
    if ran.timed_out:
        if loader.until:
            return Verdict.FAILED, f"it did not print {loader.until!r} within {loader.timeout:g} s"
        hint = "for a loader that stays, say what is good: --loader-alive S or --loader-until TEXT"
        return Verdict.HUNG, f"it still ran after {loader.timeout:g} s; {hint}"
    if loader.until:
        return Verdict.FAILED, f"it ended and did not print {loader.until!r}: {said}"
    if loader.alive:
        return Verdict.FAILED, f"it ended within {loader.alive:g} s: {said}"
    if ran.signal:
        return Verdict.KILLED, f"the process was killed by signal {ran.signal}"
    if ran.status == 0:
        return Verdict.OK, ""
    return Verdict.FAILED, said or f"exit status {ran.status}"
