"""The pytest plugin: options, fixtures, test parameters, and what became of the guest in the report.

The top of the package: it may import everything below and is imported by nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import (
    BootError,
    CapabilityMissing,
    GuestHung,
    HarnessError,
    InfrastructureError,
    KernelCrashed,
    LoaderCannot,
    VngFailed,
)
from harness.proc import quote
from harness.run import properties

if TYPE_CHECKING:
    from harness.judge.kernellog import Fault
    from harness.judge.triage import Expected, Known
    from harness.kernel.lines import Lines
    from harness.kernel.types import Choice, Kernel
    from harness.marks import Capabilities
    from harness.recorder import Recorder
    from harness.remote.attach import Holder
    from harness.remote.bcc import Bcc
    from harness.remote.bpf import Bpf
    from harness.remote.guest import Guest
    from harness.remote.libbpf import Libbpf
    from harness.run.aftermath import Aftermath, KernelLog
    from harness.run.leaks import Ledger
    from harness.run.pool import Needs, Pool, Wanted
    from harness.run.stress import Stress
    from harness.vm.machine import Machine

DEFAULT_KERNEL = "6.12"
"""The kernel that tests run on when neither the command line nor the configuration names one."""

_STATE = pytest.StashKey["State"]()
_GUESTS = pytest.StashKey["Guest"]()
_OUTCOME = pytest.StashKey[str]()
_COMPLAINED = pytest.StashKey[bool]()
_FOUND = pytest.StashKey[str]()
_LEDGER: pytest.StashKey[Ledger] = pytest.StashKey()

_STRESS_ROUNDS = 100
"""Rounds of a stress test in a run that does not ask for stress."""

KERNEL_PARAMETER = "kernel_choice"
LOADER_PARAMETER = "bpf_loader"

RAW = "raw"
LIBBPF = "libbpf"
BCC = "bcc"
LOADERS = (RAW, LIBBPF, BCC)
_BCC_MEMORY = 1536
"""MiB of a guest with bcc: LLVM and the kernel's headers lie in its memory, and compiling takes the rest."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the command line options and ini settings."""
    group = parser.getgroup("kernel-harness", "tests on Linux kernels")
    group.addoption(
        "--kernel",
        action="append",
        default=[],
        metavar="SELECTOR",
        help="kernel to test on: a series (6.1), an exact release (6.1.170), a range (>=5.10,<6.13), a path, ...; "
        f"repeat it for several kernels (default: the ini setting harness_kernels, else {DEFAULT_KERNEL})",
    )
    group.addoption(
        "--accel",
        choices=("auto", "kvm", "tcg"),
        default="auto",
        help="run guests with hardware virtualisation (kvm), in software (tcg), or with kvm where a guest has been "
        "seen to run under it (auto, the default)",
    )
    group.addoption(
        "--isolation",
        choices=("vm", "fork", "boot"),
        default="vm",
        help="what tests share: nothing, each runs on a clone of a booted machine (vm, the default); the machine, each "
        "runs in a guest process of its own (fork); nothing, each boots (boot)",
    )
    group.addoption(
        "--boot-timeout",
        type=_seconds,
        default=120.0,
        metavar="SECONDS",
        help="how long a kernel may take from start to a guest that answers (default: 120)",
    )
    group.addoption(
        "--pause-on-failure",
        action="store_true",
        help="pause when a test fails, with its guest as the failure left it, and print how to attach to it; go on at "
        "Enter or, without a terminal, when an attached prompt was left or nobody attached in time (--pause-timeout)",
    )
    group.addoption(
        "--pause-timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long --pause-on-failure waits for somebody to attach where there is no terminal (default: 300)",
    )
    group.addoption(
        "--stress",
        type=_rounds,
        default=_STRESS_ROUNDS,
        metavar="ROUNDS",
        help=f"how many rounds tests with the fixture stress make (default: {_STRESS_ROUNDS}, which takes no time)",
    )
    group.addoption(
        "--kmemleak",
        action="store_true",
        help="after each test have the kernel look for memory of its own that was forgotten: two scans once it has "
        "settled, some ten seconds a test; takes kernels built with it (flavour debug)",
    )
    group.addoption(
        "--verdicts",
        action="store_true",
        help="end with a table of verdicts: a line for each behaviour, a column a kernel",
    )
    group.addoption(
        "--record",
        type=Path,
        metavar="FILE",
        help="write what every test came to and saw on every kernel to this file, for `harness report`, `harness "
        "compare` and `harness merge`; a run that is cut short leaves what it has",
    )
    group.addoption(
        "--loader",
        type=_loaders,
        default=[RAW],
        metavar="NAME,...",
        help=f"who makes the system calls of tests that use the fixture bpf: {', '.join(LOADERS)}; with several, "
        f"each such test runs through each of them (default: {RAW}, the plain system call)",
    )
    parser.addini(
        "harness_known_faults",
        "files of known faults of kernels, which do not fail tests; as kernels/known-faults.toml of kernel-harness",
        type="paths",
        default=[],
    )
    parser.addini("harness_kernels", "kernels to test on when --kernel is not given", type="args", default=[])


def _seconds(text: str) -> float:
    with suppress(ValueError):
        seconds = float(text)
        if 0 < seconds < float("inf"):
            return seconds
    raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")


def _rounds(text: str) -> int:
    with suppress(ValueError):
        if int(text.replace("_", "")) > 0:
            return int(text.replace("_", ""))
    raise argparse.ArgumentTypeError(f"{text} is not a number of rounds, 1 or more")


def _loaders(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if not names or not set(names) <= set(LOADERS):
        raise argparse.ArgumentTypeError(f"{text!r} names no loader; there are {', '.join(LOADERS)}")
    return list(dict.fromkeys(names))


class State:
    """What the plugin keeps for one pytest process."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self._choices: list[Choice] | None = None
        self._pool: Pool | None = None
        self._capabilities: Capabilities | None = None
        self.next: Wanted | None = None
        self.unreachable: dict[str, str] = {}
        self.left_out: list[tuple[str, str, str]] = []
        self.recorder: Recorder | None = None
        self.boot_logs: list[list[bytes]] = []
        self._known: list[Known] | None = None
        self._lines: dict[Choice, Lines | None] = {}
        self.expired: list[str] = []

    @property
    def is_worker(self) -> bool:
        """Whether this is one of pytest-xdist's worker processes, which have no terminal."""
        return hasattr(self.config, "workerinput")

    @property
    def named(self) -> list[str]:
        """The selectors that the user gave, on the command line or in the configuration."""
        return list(self.config.getoption("kernel") or self.config.getini("harness_kernels"))

    def choices(self) -> list[Choice]:
        """Return the kernels to test on, resolved once."""
        from harness import kernel as kernels

        if self._choices is None:
            self._choices = kernels.resolve(self.named or [DEFAULT_KERNEL], progress=self.say)
        return self._choices

    def pool(self) -> Pool:
        """Return the machines of this process."""
        from harness.run.pool import Isolation, Pool, Settings

        if self._pool is None:
            settings = Settings(
                isolation=Isolation(self.config.getoption("isolation")),
                accel=self.config.getoption("accel"),
                boot_timeout=self.config.getoption("boot_timeout"),
            )
            self._pool = Pool(settings, self.say)
        return self._pool

    def line_of(self, choice: Choice, place: str, *, returns: bool) -> str:
        """Return the line of the sources of a place in a kernel's code; "" where nothing tells."""
        from harness.kernel.lines import Lines, with_lines

        if choice not in self._lines:
            # Whoever gives a path may have the vmlinux there too; what is downloaded and unpacked has no symbols.
            named = Path(choice.key) if choice.key.startswith("/") else None
            found = with_lines(named, self.pool().prepare(choice).kernel.vmlinux) if named is not None else None
            self._lines[choice] = Lines(found) if found is not None else None
        lines = self._lines[choice]
        return lines.of(place, returns=returns) if lines is not None else ""

    def known_faults(self) -> list[Known]:
        """Return the known faults that are in force: the project's own and those of the user's files.

        Raises:
            UsageError: A file of the user's cannot be read, or holds what is no known fault.
        """
        import datetime as dt

        from harness import data
        from harness.judge.triage import in_force, read_known

        if self._known is None:
            name = "known-faults.toml"
            entries = read_known(data.read_toml("kernels", name), f"kernels/{name}")
            for path in self.config.getini("harness_known_faults"):
                entries += read_known(data.read_user_toml(Path(path)), str(path))
            self._known, self.expired = in_force(entries, dt.datetime.now(tz=dt.timezone.utc).date())
        return self._known

    def require(self, wanted: Wanted, names: list[str]) -> None:
        """Leave out or fail the test when the kernel lacks one of these capabilities.

        The kernel is asked once for each, on a machine that no test gets.
        """
        from harness.marks import Capabilities, act_on

        if self._capabilities is None:
            self._capabilities = Capabilities()
        pool = self.pool()
        missing = self._capabilities.missing(wanted.choice, names)
        if missing:
            machine = pool.take(wanted)
            try:
                for name in missing:
                    self._capabilities.ask(wanted.choice, name, machine)
            finally:
                pool.give_back(wanted, machine)
        for name in names:
            act_on(self._capabilities.judge(pool.prepare(wanted.choice).kernel, wanted.choice, name))

    def say(self, line: str) -> None:
        """Print a line that says what takes time."""
        reporter: Any = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(f"harness: {line}")
            reporter.flush()

    def show(self, lines: Sequence[str]) -> None:
        """Print lines as they are."""
        reporter: Any = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            for line in lines:
                reporter.write_line(line)
            reporter.flush()

    def complain(self, message: str) -> None:
        """Print what went wrong outside any test."""
        reporter: Any = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            sys.stderr.write(f"ERROR: {message}\n")
        else:
            reporter.ensure_newline()
            for number, line in enumerate(message.split("\n")):
                reporter.write_line(line if number else f"ERROR: {line}", red=True)

    def close(self) -> None:
        """End every machine."""
        if self._pool is not None:
            self._pool.close()


def pytest_configure(config: pytest.Config) -> None:
    """Make the plugin's state and declare its markers."""
    config.addinivalue_line(
        "markers",
        "vm(memory, cpus, parameters, modules): MiB, virtual CPUs, kernel command line words and loaded kernel modules "
        "of the test's machine",
    )
    config.addinivalue_line(
        "markers",
        "kernel(condition, ...): run the test only on kernels of these versions, such as '>=5.11' or '>=5.10,<6.2'; "
        "conditions in one marker are alternatives, several markers must all be met",
    )
    config.addinivalue_line(
        "markers", "requires(capability, ...): run the test only on kernels that can do this, as a probe finds out"
    )
    config.addinivalue_line(
        "markers",
        "leaks(reason): the test leaves kernel objects behind on purpose; the ledger does not look at it, and no other "
        "test runs on its machine",
    )
    config.addinivalue_line(
        "markers",
        "expects_fault(kind, reason=..., title=regex): the test makes the kernel complain on purpose, of a WARN, an "
        "oops, ...; it fails when the kernel does not",
    )
    config.addinivalue_line("markers", "stress: the test repeats something as often as --stress says")
    _check_pause(config)
    config.stash[_STATE] = State(config)
    if not config.stash[_STATE].is_worker:
        _register_summaries(config)
    _start_record(config)


def _register_summaries(config: pytest.Config) -> None:
    from harness import summaries

    def labels() -> list[str]:
        return [choice.label for choice in config.stash[_STATE].choices()]

    register = config.pluginmanager.register
    register(summaries.CountOnce(config), "harness-count-once")
    register(summaries.Unchecked(), "harness-unchecked")
    register(summaries.Contracts(labels), "harness-contracts")
    register(summaries.KernelFaults(), "harness-kernel-faults")
    register(summaries.Infrastructure(), "harness-infrastructure")
    register(summaries.Throughputs(), "harness-throughputs")
    if config.getoption("verdicts"):
        register(summaries.Verdicts(labels), "harness-verdicts")
    if len(config.getoption("loader")) > 1:
        register(summaries.Loaders(), "harness-loaders")


def _start_record(config: pytest.Config) -> None:
    path: Path | None = config.getoption("record")
    state = config.stash[_STATE]
    if path is None or state.is_worker or config.getoption("collectonly"):
        return
    from harness.recorder import Recorder

    state.recorder = Recorder(
        config,
        path.absolute(),
        choices=state.choices,
        prepare=lambda choice: state.pool().prepare(choice),
        complain=state.complain,
    )
    config.pluginmanager.register(state.recorder, "harness-recorder")


def _check_pause(config: pytest.Config) -> None:
    if not config.getoption("pause_on_failure"):
        return
    if config.getoption("numprocesses", None) or config.getoption("dist", "no") != "no":
        raise pytest.UsageError(
            "--pause-on-failure and -n do not go together: a worker has no terminal to pause at, and others would run "
            "on; leave -n out"
        )
    if not config.getoption("pause_timeout") >= 0:
        raise pytest.UsageError("--pause-timeout is a number of seconds, 0 or more")


def pytest_unconfigure(config: pytest.Config) -> None:
    """End every machine."""
    if _STATE in config.stash:
        state = config.stash[_STATE]
        state.close()
        if state.recorder is not None:
            state.recorder.finish()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Prepare the kernels that the user named, and say what they are and how they run."""
    state = config.stash[_STATE]
    return _prepare_all(state) if state.named and not config.getoption("collectonly") else []


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Prepare the kernels that the user named before anything is collected, where no header is printed (-q) too."""
    state = session.config.stash[_STATE]
    if state.named and not state.is_worker:
        if session.config.getoption("collectonly"):
            with _one_error(state):
                state.choices()
        else:
            _prepare_all(state)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Prepare the default kernel, when there turn out to be tests that run on one."""
    state = session.config.stash[_STATE]
    if state.named or state.is_worker or session.config.getoption("collectonly"):
        return
    if any(_kernel_of(item) and {"kernel", "vm"} & set(getattr(item, "fixturenames", ())) for item in session.items):
        for line in _prepare_all(state):
            state.say(line)


def _prepare_all(state: State) -> list[str]:
    """Bring the kernels onto this machine; return a line on each."""
    lines = []
    with _one_error(state):
        for choice in state.choices():
            prepared = state.pool().prepare(choice)
            kernel = prepared.kernel
            lines.append(f"kernel {choice.label}: {kernel.version} ({kernel.origin}), {prepared.verdict}")
        state.known_faults()
        lines += [f"known fault: {line}" for line in state.expired]
    return lines


@contextmanager
def _one_error(state: State) -> Iterator[None]:
    """End the run at an error of the harness outside any test: one message, and an exit status of its own."""
    try:
        yield
    except HarnessError as error:
        state.complain(str(error))
        pytest.exit("no test was run", returncode=error.exit_status)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make each kernel a parameter of the tests that use one."""
    if any(metafunc.definition.get_closest_marker(name) for name in ("kernel", "requires", "leaks", "expects_fault")):
        from harness.marks import check

        try:
            check(metafunc.definition, metafunc.fixturenames)
        except pytest.UsageError as error:
            # As an error of this test's collection, which names it, in workers of xdist too.
            pytest.fail(f"{metafunc.definition.nodeid}: {error}", pytrace=False)
    loaders = metafunc.config.getoption("loader")
    if LOADER_PARAMETER in metafunc.fixturenames and loaders != [RAW]:
        metafunc.parametrize(LOADER_PARAMETER, loaders, indirect=True)
    if KERNEL_PARAMETER in metafunc.fixturenames:
        try:
            choices = metafunc.config.stash[_STATE].choices()
        except HarnessError as error:
            raise pytest.Collector.CollectError(str(error)) from None
        metafunc.parametrize(
            KERNEL_PARAMETER, choices, ids=[choice.label for choice in choices], indirect=True, scope="session"
        )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, of the tests that the user selected, those whose kernel is not one that their markers name."""
    if not any(item.get_closest_marker("kernel") or item.get_closest_marker("requires") for item in items):
        return
    from harness.kernel.catalog import policy
    from harness.marks import behaviour, sort_out

    state = config.stash[_STATE]
    tests = sort_out(items, policy)
    state.unreachable = tests.unreachable
    if tests.left_out:
        config.hook.pytest_deselected(items=[item for item, _ in tests.left_out])
        items[:] = tests.kept
    if config.getoption("record") is not None:
        labels = {item.nodeid: choice.label for item, _ in tests.left_out if (choice := _kernel_of(item))}
        state.left_out = [(behaviour(item), labels[item.nodeid], condition) for item, condition in tests.left_out]
        if state.recorder is not None:
            state.recorder.left_out(state.left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over from a worker of xdist what it found when it collected the tests."""
    state = node.config.stash[_STATE]
    output = getattr(node, "workeroutput", {})
    state.unreachable |= output.get("harness_unreachable", {})
    if state.recorder is not None:
        state.recorder.left_out(output.get("harness_left_out", []))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over to the controller of xdist what this worker found when it collected the tests."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        state = session.config.stash[_STATE]
        output["harness_unreachable"] = state.unreachable
        output["harness_left_out"] = state.left_out


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the tests that no selected kernel can run."""
    unreachable = config.stash[_STATE].unreachable
    if unreachable:
        terminalreporter.section("run on none of the selected kernels")
        for name, condition in unreachable.items():
            terminalreporter.write_line(f"{name}: is for kernels {condition}")


def _wanted(item: pytest.Item | None) -> Wanted | None:
    """Return the machine that a test runs on; None when it runs on none."""
    choice = _kernel_of(item)
    if item is None or choice is None or "vm" not in getattr(item, "fixturenames", ()):
        return None
    from harness.run.pool import Wanted

    return Wanted(choice, _needs(item))


def _kernel_of(item: pytest.Item | None) -> Choice | None:
    """Return the kernel that is a test's parameter; a project may have fixtures called kernel and vm of its own."""
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return parameters.get(KERNEL_PARAMETER)


def _needs(item: pytest.Item) -> Needs:
    """Return what a test's markers ask of its machine."""
    from harness.run.pool import Needs

    asked: dict[str, Any] = {}
    for mark in reversed(list(item.iter_markers("vm"))):
        asked.update(mark.kwargs)
    for name in ("parameters", "modules"):
        words = asked.get(name, ())
        if isinstance(words, str) or not all(isinstance(word, str) for word in words):
            raise pytest.UsageError(f"{item.nodeid}: {name} of the marker vm is a list of words, not {words!r}")
        asked[name] = tuple(words)
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    if BCC in getattr(item, "fixturenames", ()) or parameters.get(LOADER_PARAMETER) == BCC:
        asked = {"image": BCC, **asked, "memory": max(asked.get("memory", 0), _BCC_MEMORY)}
    try:
        return Needs(**asked)
    except TypeError as error:
        raise pytest.UsageError(
            f"{item.nodeid}: the marker vm takes memory, cpus, parameters and modules: {error}"
        ) from error


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Note which machine comes next, so that it can be prepared while this test runs."""
    item.config.stash[_STATE].next = _wanted(nextitem)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Put the kernel that a test runs on into its reports, whatever becomes of it."""
    choice = _kernel_of(item)
    if choice is not None:
        item.user_properties.append((properties.KERNEL, choice.label))
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    if LOADER_PARAMETER in parameters:
        item.user_properties.append((properties.LOADER, parameters[LOADER_PARAMETER]))


@pytest.fixture(scope="session")
def kernel_choice(request: pytest.FixtureRequest) -> Choice:
    """The kernel this test runs on, as it was chosen; every test that uses a kernel is parametrised with it."""
    choice: Choice = request.param
    return choice


@pytest.fixture(scope="session")
def kernel(kernel_choice: Choice, request: pytest.FixtureRequest) -> Kernel:
    """The kernel this test runs on: version, release, where it came from."""
    return request.config.stash[_STATE].pool().prepare(kernel_choice).kernel


@pytest.fixture
def vm(kernel_choice: Choice, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine that runs the kernel: by default one of this test's own, as it was right after boot."""
    from harness.run.pool import Wanted

    state = request.config.stash[_STATE]
    wanted = Wanted(kernel_choice, _needs(request.node))
    pool = state.pool()
    if request.node.get_closest_marker("requires") is not None:
        from harness.marks import required

        state.require(wanted, required(request.node))
    began = time.monotonic()
    machine = pool.take(wanted)
    started: properties.Started = {"start": round(time.monotonic() - began, 4), "boot": pool.boot_seconds(wanted)}
    request.node.user_properties += [(properties.RELEASE, machine.release), (properties.MACHINE, started)]
    if state.next is not None:
        pool.expect(state.next)
    log = _log_check(request.node, wanted)
    _note_boot_faults(request.node, log, machine)
    checks = _checks(request.node, log)
    checks.begin(machine)
    yield machine
    try:
        _look_back(request.node, machine, checks)
    finally:
        request.node.user_properties += [_known_fault(fault, entry) for fault, entry in log.excused]
        if request.node.get_closest_marker("leaks") is not None:
            pool.spoil(machine)
        pool.give_back(wanted, machine)


def _checks(item: pytest.Item, log: KernelLog) -> Aftermath:
    """Return what is looked at around a test, the kernel's log last."""
    from harness.run.aftermath import Aftermath
    from harness.run.leaks import Ledger

    if item.get_closest_marker("leaks") is not None:
        return Aftermath([log])
    shared = item.config.stash[_STATE].pool().shares
    item.stash[_LEDGER] = ledger = Ledger(item.config.rootpath, is_last=not shared)
    return Aftermath([ledger, log])


def _log_check(item: pytest.Item, wanted: Wanted) -> KernelLog:
    from harness.kernel.catalog import policy
    from harness.kernel.selector import meets, parse_condition
    from harness.run.aftermath import KernelLog

    expected: list[Expected] = []
    if item.get_closest_marker("expects_fault") is not None:
        from harness.marks import expected_faults

        expected = expected_faults(item)
    state = item.config.stash[_STATE]
    return KernelLog(
        expected,
        state.known_faults(),
        lambda condition: meets(wanted.choice, parse_condition(condition), policy()),
        kmemleak=item.config.getoption("kmemleak"),
        line_of=lambda place, returns: state.line_of(wanted.choice, place, returns=returns),
    )


def _known_fault(fault: Fault, entry: Known) -> tuple[str, dict[str, Any]]:
    from harness.run.aftermath import as_property

    return properties.KNOWN_FAULT, {**as_property(fault), "reason": entry.reason, "origin": entry.origin}


def _note_boot_faults(item: pytest.Item, log: KernelLog, machine: Machine) -> None:
    """Put what the kernel complained of before any test ran into the report of the first test that its machine serves.

    No test is to blame for it: it is counted once for each kernel, by :class:`harness.summaries.KernelFaults`.
    """
    from harness.judge.triage import sort_out
    from harness.run.aftermath import as_property, find_faults

    seen = item.config.stash[_STATE].boot_logs
    if any(one is machine.boot_log for one in seen):
        return
    seen.append(machine.boot_log)
    found = sort_out(find_faults(machine.boot_log, 0, machine.about["tainted"]), known=log.known, is_for=log.is_for)
    item.user_properties += [(properties.BOOT_FAULT, dict(as_property(one.fault))) for one in found.counted]
    item.user_properties += [_known_fault(one.fault, entry) for one, entry in found.known]


def _look_back(item: pytest.Item, machine: Machine, checks: Aftermath) -> None:
    """Fail the test when there is something wrong with its machine, now that all else of the test is gone."""
    from harness.vm.machine import State as MachineState

    was_dead = machine.state is MachineState.DEAD
    complaints = checks.end(machine)
    account = item.stash[_LEDGER].account if _LEDGER in item.stash else None
    if account is not None:
        item.user_properties.append((properties.LEDGER, dict(account)))
    outcome = item.stash.get(_OUTCOME, "")
    complaints = [one for one in complaints if outcome == "passed" or not one.only_if_passed]
    if not complaints:
        return
    item.config.stash[_STATE].pool().spoil(machine)
    item.user_properties += [(one.name, dict(one.data)) for one in complaints if one.name]
    text = "\n\n".join(one.text for one in complaints)
    if was_dead or outcome == "failed":
        # It has failed, or was told of the machine's end and has dealt with that.
        item.stash[_FOUND] = text
        return
    item.user_properties += [(properties.TROUBLE, word) for word in dict.fromkeys(one.trouble for one in complaints)]
    if item.config.getoption("pause_on_failure"):
        _pause(item, machine, text)
    item.stash[_COMPLAINED] = True
    pytest.fail(text, pytrace=False)


@pytest.fixture
def guest(vm: Machine, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """The guest as a test sees it: call functions there, read its kernel log."""
    from harness.remote.guest import Guest

    guest = Guest(vm)
    request.node.stash[_GUESTS] = guest
    yield guest
    if request.node.get_closest_marker("leaks") is not None:
        guest.close()  # otherwise the ledger ends its process


@pytest.fixture
def stress(request: pytest.FixtureRequest) -> Iterator[Stress]:
    """Repeat functions in the guest, as often as --stress says; how fast that went is in the report."""
    from harness.run.stress import Stress

    state = request.config.stash[_STATE]
    stress = Stress(request.config.getoption("stress"), request.node.name, state.say)
    yield stress
    request.node.user_properties += [(properties.THROUGHPUT, dict(one)) for one in stress.throughputs]


@pytest.fixture
def bpf_loader(request: pytest.FixtureRequest) -> str:
    """Who makes the bpf(2) system calls of this test: "raw", or a library, as --loader says."""
    return str(getattr(request, "param", RAW))


@pytest.fixture
def bpf(guest: Guest, bpf_loader: str) -> Bpf:
    """Return the bpf system call, in a guest process of this test's own."""
    from harness.remote.bpf import Bpf
    from harness.remote.libbpf import require_library

    if bpf_loader == LIBBPF:
        require_library()
    return Bpf(guest.process, bpf_loader)


@pytest.fixture
def libbpf(guest: Guest) -> Libbpf:
    """Return libbpf, in the same guest process: open compiled objects with it."""
    from harness.remote.command import Commands
    from harness.remote.libbpf import Libbpf

    return Libbpf(Commands(guest.process))


@pytest.fixture
def bcc(guest: Guest) -> Bcc:
    """Return bcc, in the same guest process: compile programs with it."""
    from harness.remote.bcc import Bcc
    from harness.remote.command import Commands

    return Bcc(Commands(guest.process))


@pytest.fixture(scope="session")
def bpf_object() -> Callable[..., Path]:
    """Return a function that compiles a BPF program written in C, and returns the object's path.

    It takes the path of a C file, or the name of one in `bpf/`, and macros: `bpf_object(path, "NAME=VALUE", ...)`.
    """
    from harness import objects

    def build(source: str | Path, *defines: str) -> Path:
        return objects.build(objects.find_source(source), defines=defines)

    return build


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what guest functions printed, and say what sort of trouble it is that ended the test."""
    if call.excinfo is not None and not item.config.getoption("fulltrace"):
        call.excinfo = _ending_in_test(call.excinfo)
    report = yield
    if call.when == "call" and _GUESTS in item.stash:
        for output in item.stash[_GUESTS].outputs:
            for stream, text in (("stdout", output.stdout), ("stderr", output.stderr)):
                if text:
                    report.sections.append((f"Guest {stream} of {output.function}", text))
    if call.when == "call":
        item.stash[_OUTCOME] = report.outcome
    elif call.when == "teardown" and _FOUND in item.stash:
        report.sections.append(("What else was found at teardown", item.stash[_FOUND]))
    if call.when == "teardown" and report.skipped and item.stash.get(_COMPLAINED, False):
        # The marker xfail is about what the test asserts.
        report.outcome = "failed"
        vars(report).pop("wasxfail", None)
    if call.excinfo is not None and isinstance(call.excinfo.value, LoaderCannot):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), item.location[1] or 0, f"Skipped: {call.excinfo.value.what}")
    if call.excinfo is not None and report.failed and isinstance(call.excinfo.value, HarnessError):
        error = call.excinfo.value
        if report.when != "call":
            report.longrepr = f"{type(error).__name__}: {error}"  # no line of the test's own is to blame
        trouble = next((word for kind, word in _TROUBLES.items() if isinstance(error, kind)), None)
        if trouble is not None:
            report.user_properties.append((properties.TROUBLE, trouble))
            item.user_properties.append(
                (properties.TROUBLE, trouble)
            )  # for JUnit's file, which is written from the last report
        if isinstance(error, BootError) and report.when == "setup":
            report.user_properties.append((properties.NOT_BOOTED, _not_booted(item, error)))
    return report


def _not_booted(item: pytest.Item, error: BootError) -> properties.NotBooted:
    choice = None if isinstance(error, VngFailed) else _kernel_of(item)
    return {"kernel": choice.label if choice is not None else "", "what": error.what, "hint": error.hint}


def pytest_exception_interact(
    node: pytest.Item | pytest.Collector, call: pytest.CallInfo[Any], report: pytest.CollectReport | pytest.TestReport
) -> None:
    """Pause at a failed test, if the user wants that."""
    if call.when == "call" and isinstance(node, pytest.Item) and node.config.getoption("pause_on_failure"):
        from harness.vm.machine import Machine

        machine = getattr(node, "funcargs", {}).get("vm")
        if isinstance(machine, Machine):  # a project may have a fixture of that name
            _pause(node, machine, report.longreprtext)


def _pause(item: pytest.Item, machine: Machine, failure: str) -> None:
    """Hold the guest of a failed test until the user wants to go on."""
    from harness.remote.attach import Holder
    from harness.vm.command import CONSOLE_LOG
    from harness.vm.machine import State as MachineState

    state = item.config.stash[_STATE]
    capture: Any = item.config.pluginmanager.get_plugin("capturemanager")
    if capture is not None:
        capture.suspend(in_=True)
    holder: Holder | None = None
    try:
        key = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        state.show([failure, ""])
        if machine.state is MachineState.READY:
            holder = Holder(machine, f"{item.nodeid} failed here and is paused.")
            state.say(f"{item.nodeid} failed; its guest is as it was then. In another terminal:")
            state.show([f"    {_attach_command(machine.folder)}"])
        else:
            state.say(f"{item.nodeid} failed; there is no guest to attach to, it is {machine.state.value}")
        state.show([f"    console log: {machine.folder / CONSOLE_LOG}"])
        if key is not None:
            state.say("press Enter to go on")
        _hold(state, holder, machine, key)
    finally:
        if holder is not None:
            holder.close()
        if capture is not None:
            capture.resume()


def _hold(state: State, holder: Holder | None, machine: Machine, key: int | None) -> None:
    timeout: float | None = None if key is not None else state.config.getoption("pause_timeout")
    if holder is not None:
        if key is None:
            state.say(f"there is no terminal to press a key at: going on after that, or in {timeout:g} s")
        attached = holder.wait(key=key, timeout=timeout)
        if attached:
            state.pool().spoil(machine)
        if key is None:
            state.say("the attached prompt was left; going on" if attached else "nobody attached; going on")
    if key is not None:
        sys.stdin.readline()


def _attach_command(folder: Path) -> str:
    """Return what to type to attach, in a terminal that knows nothing of this one's virtual environment."""
    beside = Path(sys.executable).with_name("harness")
    program = str(beside) if beside.exists() else "harness"
    return quote([program, "attach", folder])


_TROUBLES: dict[type[HarnessError], str] = {
    InfrastructureError: properties.TROUBLE_INFRASTRUCTURE,
    KernelCrashed: properties.TROUBLE_CRASHED,
    GuestHung: properties.TROUBLE_HUNG,
    CapabilityMissing: properties.TROUBLE_MISSING,
}


def _ending_in_test(excinfo: pytest.ExceptionInfo[BaseException]) -> pytest.ExceptionInfo[BaseException]:
    """Return the same error as seen from the test's own line: the harness's frames say no more than its message."""
    error = excinfo.value
    if not isinstance(error, (HarnessError, AssertionError)):
        return excinfo
    frames = [(entry.tb_frame, entry.tb_lasti, entry.tb_lineno) for entry in _entries(excinfo.tb)]
    while frames and _is_below(frames[-1][0].f_code.co_filename):
        frames.pop()
    if not frames:
        return excinfo
    traceback = None
    for frame in reversed(frames):
        traceback = TracebackType(traceback, *frame)
    if error.__cause__ is not None and (isinstance(error, HarnessError) or isinstance(error.__cause__, HarnessError)):
        error.__cause__, error.__suppress_context__ = None, True
    return pytest.ExceptionInfo.from_exception(error.with_traceback(traceback))


def _entries(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _is_below(file: str) -> bool:
    # contextlib's frame lies between the body of a with statement and the context managers of this package.
    # The package's own tests, harness/contracts/test_*.py, are tests like any others.
    path = Path(file)
    inside = Path(__file__).parent in path.parents and not path.name.startswith("test_")
    return inside or path.name == "contextlib.py"


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Show infrastructure trouble as an error, or as a test that was not run; what the kernel did is a failure.

    That holds before and after the test too.
    """
    known = getattr(report, "user_properties", [])
    if properties.values(known, properties.NOT_RUN):
        return "not run", "-", "NOT RUN"
    troubles = properties.values(known, properties.TROUBLE)
    if report.failed and properties.TROUBLE_INFRASTRUCTURE in troubles:
        return "error", "I", "INFRASTRUCTURE"
    if report.failed and troubles:
        return "failed", "F", "FAILED"
    return None
