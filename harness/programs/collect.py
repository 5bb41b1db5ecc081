"""A test program as a module of tests: one function for each of its tests, with a machine as any other test has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.errors import HarnessError, UsageError
from harness.exec.parcel import Parcel, pack
from harness.programs.kinds import Listed
from harness.programs.listing import printed_list
from harness.programs.run import run_test
from harness.programs.settings import Named
from harness.vm.machine import Machine
from harness.vm.spec import MachineSpec


class ProgramFile(pytest.Module):
    """A test program.

    Attributes:
        named: The line of the setting that names it.
    """

    named: Named

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._packed: dict[MachineSpec | None, Parcel] = {}

    def _getobj(self) -> ModuleType:
        """Return a module without tests yet; pytest asks for it where it would import a file."""
        made = ModuleType(self.path.name)
        settings = {"memory": self.named.memory}
        scope = {} if self.named.scope == "function" else {"scope": self.named.scope}
        made.pytestmark = [pytest.mark.harness_vm(**settings, **scope)]  # type: ignore[attr-defined]
        return made

    def istestfunction(self, obj: object, name: str) -> bool:  # noqa: ARG002 - pytest's signature
        """Return whether it is one of the functions that were made here: their names follow no pattern."""
        return hasattr(obj, "of_program")

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """List the program's tests and make a function of each.

        Raises:
            CollectError: It cannot run, or cannot list its tests.
        """
        try:
            parcel = self._pack(None)
            tests = self._tests(parcel)
        except HarnessError as error:
            raise self.CollectError(f"{self.named.line!r}: {error}") from None
        for test in tests:
            function = _function(self._pack, self.named, test, self.path.name)
            function.__name__ = function.__qualname__ = test.shown
            function.__module__ = self.obj.__name__
            function.__doc__ = None
            setattr(self.obj, test.shown, function)
        return super().collect()

    def _pack(self, spec: MachineSpec | None) -> Parcel:
        """Return the program and its files for a machine; None for what this machine itself can run."""
        if spec is not None and spec.architecture.is_own and spec.rootfs is None:
            spec = None
        if spec not in self._packed:
            self._packed[spec] = self._new_parcel(spec)
        return self._packed[spec]

    def _new_parcel(self, spec: MachineSpec | None) -> Parcel:
        cwd = (self.config.rootpath / self.named.cwd) if self.named.cwd else self.path.parent
        words = [str(self.path), *self.named.args]
        if spec is None:
            return pack(words, (), cwd=cwd, memory=self.named.memory)
        return pack(
            words,
            (),
            cwd=cwd,
            memory=self.named.memory,
            wanted=spec.architecture,
            userland=spec.image.userland,
            rootfs=spec.rootfs,
        )

    def _tests(self, parcel: Parcel) -> list[Listed]:
        kind = self.named.kind
        if not kind.list_words:
            return kind.parse_list("")
        argv = [parcel.argv[0], *kind.list_words, *parcel.argv[1:]]
        text = printed_list(argv, Path(parcel.cwd))
        found = kind.parse_list(text)
        if text.strip() and not found:
            raise UsageError(
                f"{argv[0]} printed no list of tests",
                expected="a program of the kind that the line says",
                detail=text[:500],
            )
        return found


def _function(
    pack_for: Callable[[MachineSpec], Parcel], named: Named, test: Listed, program: str
) -> Callable[..., None]:
    """Return the function that pytest runs for one test."""

    def of_program(_harness_vm: Machine, request: pytest.FixtureRequest) -> None:
        run_test(_harness_vm, pack_for(_harness_vm.spec), named, test, request.node)

    of_program.of_program = program  # type: ignore[attr-defined]
    if test.disabled:
        return pytest.mark.skip(reason=f"disabled in {program}")(of_program)
    return of_program
