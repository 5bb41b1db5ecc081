"""What the report of a failed test has besides its failure: how to run it alone, on what it ran, the console's end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pytest

from harness.pytest_plugin.collection import kernel_of, needs_of
from harness.pytest_plugin.options import SECOND_FIXTURE, VM_FIXTURE
from harness.pytest_plugin.state import STATE
from harness.util.proc import quote

if TYPE_CHECKING:
    from harness.errors import HarnessError
    from harness.vm.machine import Machine

REPEAT = "How to run this test alone, and on what it ran"
CONSOLE = "Last lines of the guest's console"
ALSO_FOUND = "Also found at teardown"

_DROPPED = (
    "--record",
    "--harness-record",
    "--junit-xml",
    "--junitxml",
    "-n",
    "--numprocesses",
    "--dist",
    "--maxprocesses",
)
"""Options with a value that are about the whole run: a test that runs alone must not write over its files."""
_DROPPED_FLAGS = frozenset(
    {
        "--lf",
        "--last-failed",
        "--ff",
        "--failed-first",
        "--nf",
        "--sw",
        "--stepwise",
        "--verdicts",
        "--harness-verdicts",
        "-q",
        "-v",
        "-vv",
    }
)
_SEEDS = {"hypothesis_seed": "--hypothesis-seed", "randomly_seed": "randomly"}
"""Options that hold a seed, by what reports call them."""


def sections(item: pytest.Item, error: HarnessError | None) -> Iterator[tuple[str, str]]:
    """Return captions and texts about a failed test of a kernel; none for other tests.

    Args:
        item: The test.
        error: The error of the harness that ended it, if any; its detail has the console's last lines already.
    """
    from harness.vm.machine import Machine

    choice = kernel_of(item)
    if choice is None:
        return
    machine = (getattr(item, "funcargs", None) or {}).get(VM_FIXTURE)
    assert machine is None or isinstance(machine, Machine), "the fixture is this plugin's"
    if machine is not None and (error is None or not error.detail) and any(machine.process.console()):
        yield CONSOLE, machine.console_tail()
    second = (getattr(item, "funcargs", None) or {}).get(SECOND_FIXTURE)
    if isinstance(second, Machine) and any(second.process.console()):
        yield f"{CONSOLE}, of the second machine, {second.label}", second.console_tail()
    yield REPEAT, "\n".join([command(item), *_identity(item, machine), *_seeds(item.config)])


class EvidenceLast:
    """Lets what is shown of a failed test end with its evidence: what its teardown found comes before."""

    def __init__(self) -> None:
        self._failed: dict[str, pytest.TestReport] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Move what the teardown found into the report of the failure."""
        if report.when != "teardown":
            if report.failed:
                self._failed[report.nodeid] = report
            return
        failed = self._failed.pop(report.nodeid, None)
        found = [section for section in report.sections if section[0] == ALSO_FOUND]
        if failed is not None and found:
            captions = [caption for caption, _ in failed.sections]
            at = min(
                (captions.index(caption) for caption in (CONSOLE, REPEAT) if caption in captions), default=len(captions)
            )
            failed.sections[at:at] = found
            report.sections = [section for section in report.sections if section not in found]


def _identity(item: pytest.Item, machine: Machine | None) -> Iterator[str]:
    choice = kernel_of(item)
    assert choice is not None, "only tests of a kernel have evidence"
    state = item.config.stash[STATE]
    spec = machine.spec if machine is not None else state.pool().known(choice, needs_of(item))
    if spec is None:
        yield f"kernel {choice.label}: {choice.provider} {choice.key}"
        return
    kernel = spec.kernel
    yield f"kernel {kernel.label}: {kernel.release or kernel.version} ({kernel.origin}), sha256 {kernel.digest}"
    yield f"guest image: sha256 {spec.image.digest}"
    if machine is not None:
        yield f"QEMU: {quote(machine.process.command())}"


def _seeds(config: pytest.Config) -> Iterator[str]:
    for option, name in _SEEDS.items():
        seed = getattr(config.option, option, None)
        if seed is not None:
            yield f"seed: {name} {seed}"


def command(item: pytest.Item) -> str:
    """Return the command that runs one test alone, for a shell in any folder."""
    config = item.config
    choice = kernel_of(item)
    named = config.stash[STATE].named
    words = [str(word) for word in config.invocation_params.args]
    if choice is not None and choice.label in named:
        words = [*_without(words, ("--kernel", "--harness-kernel")), f"--kernel={choice.label}"]
    words = _without(words, _DROPPED, flags=_DROPPED_FLAGS, places=config.option.file_or_dir or ())
    root = quote([config.rootpath])
    return f"cd {root} && {quote(['pytest', item.nodeid, *words])}"


def _without(
    words: Sequence[str], options: Sequence[str], *, flags: frozenset[str] = frozenset(), places: Sequence[str] = ()
) -> list[str]:
    """Return the words of a command line without some options and their values, flags and paths."""
    kept = []
    rest = iter(words)
    for word in rest:
        if word in options:
            next(rest, None)
        elif not (
            word in flags
            or word in places
            or any(word.startswith(f"{option}=") for option in options)
            or ("-n" in options and word[:2] == "-n" and word[2:].isdigit())
        ):
            kept.append(word)
    return kept
