"""State of the plugin, for the pytest process and for each test."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.pytest_plugin.options import DEFAULT_KERNEL, named, option
from harness.pytest_plugin.output import Output

if TYPE_CHECKING:
    from harness.checks.known_faults import KnownFault
    from harness.kernel.catalog import Catalog
    from harness.kernel.files.addr2line import Lines
    from harness.kernel.types import Choice
    from harness.machines.pool import Pool
    from harness.pytest_plugin.markers import Capabilities
    from harness.pytest_plugin.recorder import Recorder
    from harness.pytest_plugin.scopes import SharedMachine
    from harness.remote.guest import Guest
    from harness.vm.machine import Machine
    from harness.vm.spec import MachineSpec, Needs

STATE = pytest.StashKey["PluginState"]()
CHOICE: pytest.StashKey[Choice] = pytest.StashKey()
"""The kernel of a test that has no parameter of it."""
MACHINE: pytest.StashKey[Machine] = pytest.StashKey()
GUESTS: pytest.StashKey[Guest] = pytest.StashKey()
REPORTED = pytest.StashKey[int]()
"""How many outputs of the guest are in a test's reports."""
OUTCOME = pytest.StashKey[str]()
COMPLAINED = pytest.StashKey[bool]()
FOUND = pytest.StashKey[str]()
ALONE = pytest.StashKey[bool]()
"""Whether a test that shares its machine runs again on one of its own."""


class PluginState:
    """The plugin's state for one pytest process."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.output = Output(config)
        self._choices: list[Choice] | None = None
        self._pool: Pool | None = None
        self._named: dict[object, Choice] = {}
        self._capabilities: Capabilities | None = None
        self.next: tuple[Choice, Needs] | None = None
        self.shared: SharedMachine | None = None
        self.unreachable: dict[str, str] = {}
        self.left_out: list[tuple[str, str, str]] = []
        self.recorder: Recorder | None = None
        self.boot_logs: set[int] = set()
        self._known: list[KnownFault] | None = None
        self._lines: dict[Choice, Lines | None] = {}
        self.expired: list[str] = []
        self.heed_no_more: Callable[[], None] = lambda: None

    @property
    def is_worker(self) -> bool:
        """Whether this is one of pytest-xdist's worker processes, which have no terminal."""
        return hasattr(self.config, "workerinput")

    @property
    def named(self) -> list[str]:
        """The user's selectors, from the command line or the configuration."""
        return named(self.config)

    def choices(self) -> list[Choice]:
        """Return the kernels to test on, resolved once."""
        if self._choices is None:
            self._choices = self._catalog.resolve(self.named or [DEFAULT_KERNEL])
        return self._choices

    def only_choice(self) -> Choice:
        """Return the kernel of a test that cannot have it as a parameter.

        Raises:
            UsageError: Several are selected.
        """
        from harness.errors import UsageError

        choices = self.choices()
        if len(choices) != 1:
            raise UsageError(
                "a test that asks for its guest while it runs, or is one of unittest's, cannot run once for each "
                f"kernel; {len(choices)} are selected: {', '.join(choice.label for choice in choices)}",
                expected="one kernel",
                hint="select one (--kernel), or name the fixture among the arguments of a plain test function",
            )
        return choices[0]

    def choice_of(self, selector: object) -> Choice:
        """Return the one kernel that a test's marker names besides those of the run, resolved once.

        Raises:
            HarnessError: It names none, or several.
        """
        from harness.errors import UsageError

        if selector not in self._named:
            if not isinstance(selector, str):
                raise UsageError(f"second of the marker vm is {selector!r}", expected='a selector such as "6.1"')
            found = self._catalog.resolve([selector])
            if len(found) != 1:
                raise UsageError(
                    f"second of the marker vm is {selector!r}, which names {len(found)} kernels",
                    expected="one kernel",
                    hint=f'second="{found[-1].label}"' if found else "",
                )
            self._named[selector] = found[0]
        return self._named[selector]

    @functools.cached_property
    def _catalog(self) -> Catalog:
        """The kernels' providers, asked once each."""
        from harness.kernel.catalog import Catalog

        default = option(self.config, "arch") or self.config.getini("harness_arch")
        return Catalog(
            progress=self.output.say, build_missing=option(self.config, "build_missing"), default=str(default)
        )

    def pool(self) -> Pool:
        """Return the machines of this process."""
        from harness.machines.pool import Isolation, Pool, Settings

        if self._pool is None:
            settings = Settings(
                isolation=Isolation(option(self.config, "isolation")),
                accel=option(self.config, "accel"),
                boot_timeout=option(self.config, "boot_timeout"),
            )
            self._pool = Pool(settings, self.output.say, acquire=self._catalog.acquire)
        return self._pool

    def line_of(self, choice: Choice, place: str, *, returns: bool) -> str:
        """Return the source line of a place in a kernel's code; "" when unknown."""
        from harness.kernel.files.addr2line import Lines, with_lines

        if choice not in self._lines:
            # A kernel given by path may have its vmlinux there; a downloaded and unpacked kernel has no symbols.
            named = Path(choice.key) if choice.key.startswith("/") else None
            found = with_lines(named, self.pool().prepare(choice).kernel.vmlinux) if named is not None else None
            self._lines[choice] = Lines(found) if found is not None else None
        lines = self._lines[choice]
        return lines.of(place, returns=returns) if lines is not None else ""

    def known_faults(self) -> list[KnownFault]:
        """Return the valid known faults: the package's and those of the user's files.

        Raises:
            UsageError: A user's file cannot be read or is malformed.
        """
        from harness.checks.known_faults import load

        if self._known is None:
            self._known, self.expired = load(map(Path, self.config.getini("harness_known_faults")))
        return self._known

    def require(self, choice: Choice, spec: MachineSpec, names: list[str], shared: Machine | None = None) -> None:
        """Skip or fail the test when the kernel lacks one of these capabilities.

        The kernel is asked once for each: on the machine that the test shares with others, or on one that no test gets.
        """
        from harness.pytest_plugin.markers import Capabilities, act_on

        if self._capabilities is None:
            self._capabilities = Capabilities()
        pool = self.pool()
        missing = self._capabilities.missing(choice, names)
        if missing:
            machine = shared or pool.take(spec)
            try:
                for name in missing:
                    self._capabilities.ask(choice, name, machine)
            finally:
                if shared is None:
                    pool.give_back(spec, machine)
        for name in names:
            act_on(self._capabilities.judge(spec.kernel, choice, name))

    def close(self) -> None:
        """End every machine."""
        if self._pool is not None:
            self._pool.close()
