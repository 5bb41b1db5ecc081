"""Runs pytest with the plugin, in a process and a folder of its own, and looks for what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.util import cache

KERNEL = "6.1"

WHOLE = 240.0
"""Seconds an inner run may take; many times what it does, for machines that are busy with other things."""


@dataclass(frozen=True)
class Result:
    """What an inner run came to."""

    status: int
    out: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def last(self) -> str:
        return self.lines[-1]

    def section(self, test: str, kernel: str = KERNEL) -> str:
        """Return the part of the output that is about a test."""
        found = re.search(
            rf"^_+ (?:ERROR at \w+ of )?{test}\[{re.escape(kernel)}\] _+$\n(.*?)(?=^[_=]{{5}})",
            self.out,
            re.MULTILINE | re.DOTALL,
        )
        assert found is not None, f"no section on {test} in\n{self.out}"
        return found[1]

    def outcomes(self, test: str, kernel: str = KERNEL) -> list[str]:
        """Return the words in which -rA shows a test's outcomes."""
        return re.findall(rf"^([A-Z]+) test_\w+\.py::{test}\[{re.escape(kernel)}\]", self.out, re.MULTILINE)


class Inner:
    """A folder of tests and the pytest that runs them.

    Attributes:
        folder: The folder.
        warnings: What Python does about a warning, also before pytest has read its options.
    """

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.folder = folder
        self.warnings = "error"
        self.runtime = runtime
        self.runs = runtime / f"kernel-harness-{os.getuid()}"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "HARNESS_"))},
            "HARNESS_CACHE": str(cache.cache_root()),
            "XDG_RUNTIME_DIR": str(runtime),
            "COLUMNS": "200",
        }
        self._environment.pop("CI", None)

    def write(self, **modules: str) -> None:
        """Write test modules, by name."""
        for name, text in modules.items():
            (self.folder / f"{name}.py").write_text(text)

    def _argv(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-W", self.warnings, "-m", "pytest", "-p", "no:cacheprovider", *arguments]

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start an inner run."""
        return subprocess.Popen(
            self._argv(arguments),
            cwd=self.folder,
            env={**self._environment, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, within: float = WHOLE) -> Result:
        """Run to the end, within so many seconds; no QEMU and no run folder may be left then."""
        with self.start(*arguments, env=env) as process:
            try:
                out, _ = process.communicate(timeout=within)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert self.qemus() == []
        assert self.run_folders() == []
        return Result(process.returncode, out)

    def qemus(self) -> list[int]:
        """Return the pids of the QEMUs that inner runs started and that still run."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            except (FileNotFoundError, ProcessLookupError):
                continue
            if words and b"qemu-system" in words[0] and any(str(self.runs).encode() in word for word in words):
                found.append(int(entry.name))
        return found

    def run_folders(self) -> list[Path]:
        """Return the folders of machines that were not removed."""
        return sorted(self.runs.glob("run-*"))

    def close(self) -> None:
        """End what a failed test left."""
        for pid in self.qemus():
            os.kill(pid, signal.SIGKILL)
        cache._remove(self.runtime)


@contextmanager
def inner_runs(folders: pytest.TempPathFactory) -> Iterator[Callable[[], Inner]]:
    """Give a function that makes folders for inner runs; what they leave is removed."""
    made = []

    def make() -> Inner:
        # A short path: sockets are made below it.
        runtime = Path("/tmp") / f"khp-{os.getpid()}-{os.urandom(3).hex()}"
        runtime.mkdir(mode=0o700)
        made.append(Inner(folders.mktemp("inner"), runtime))
        return made[-1]

    yield make
    for inner in made:
        inner.close()


def properties_of(junit: Path) -> dict[str, dict[str, str]]:
    """Return the properties of every test in a JUnit file, by the test's name."""
    return {
        case.attrib["name"]: {entry.attrib["name"]: entry.attrib["value"] for entry in case.iter("property")}
        for case in ET.parse(junit).iter("testcase")
    }
