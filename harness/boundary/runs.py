"""Runs the tests in question on one kernel with pytest, and reads the run record that it writes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.boundary.answers import reading_of
from harness.boundary.search import Reading
from harness.contracts import contracts
from harness.errors import RecordError, UsageError
from harness.kernel import lockfile
from harness.kernel.types import Choice
from harness.results.file import read
from harness.util.proc import die_with_parent, log, quote

_USAGE, _NO_TESTS = 4, 5


class TestsInQuestion:
    """Runs the tests in question on one kernel.

    Args:
        test: A contract's id, or a test as on the command line of pytest.
        words: Further words for pytest.
    """

    def __init__(self, test: str, words: Sequence[str]) -> None:
        self.contract = test if test in contracts() else ""
        self._test = test
        self._words = ["--pyargs", "harness.contracts", "-k", test] if self.contract else [test]
        self._words += words

    def means(self, test: str) -> bool:
        """Whether a test of a record is one of those in question."""
        if self.contract:
            return True
        # Ids in a record are as pytest prints them: relative to the root of the tests.
        name = self._test.rpartition("/")[2]
        rest = r"(\[|$)" if "::" in name else "::"
        return re.match(re.escape(name) + rest, test.rpartition("/")[2]) is not None

    def run_on(self, choice: Choice, folder: Path) -> Reading:
        """Run them on a release.

        Args:
            choice: The release.
            folder: Where a lock file and the record may be written.

        Raises:
            UsageError: pytest finds no such test, or cannot read it.
        """
        lock = folder / "kernel.lock"
        lockfile.write(lock, [choice], {})
        path = folder / "record.json"
        path.unlink(missing_ok=True)
        argv = [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(f"--harness-kernel=@{lock}", f"--harness-record={path}"),
            *self._words,
        ]
        status, output = _pytest(argv)
        if status == _USAGE or "error during collection" in output or "errors during collection" in output:
            raise UsageError(
                f"pytest cannot run {self._test}",
                expected="a contract's id, or a test as on the command line of pytest: tests/test_x.py::test_y",
                detail=_tail(output),
            )
        try:
            record = read(path)
        except RecordError as error:
            return Reading(silent={"": _trouble(output) or error.what})
        reading = reading_of(record, choice.label, contract=self.contract)
        if not reading.answers and not reading.silent:
            if status == _NO_TESTS:
                raise UsageError(
                    f"no test that runs on a kernel is called {self._test}",
                    expected="a contract's id, or a test that uses one of the fixtures kernel, vm, guest, bpf",
                    detail=_tail(output),
                )
            return Reading(silent={"": _trouble(output) or f"pytest ended with status {status}"})
        return reading


def _pytest(argv: Sequence[str]) -> tuple[int, str]:
    """Run pytest; return its exit status and what it printed. It is ended when this process is."""
    log.info("+ %s", quote(argv))
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=die_with_parent,
    ) as process:
        try:
            output, _ = process.communicate()
        except BaseException:
            # It ends its guests and removes their folders.
            process.terminate()
            process.wait()
            raise
    return process.returncode, output


def _tail(output: str) -> str:
    return "\n".join(output.strip().splitlines()[-15:])


def _trouble(output: str) -> str:
    """Return the line of pytest's output that says why it ran no test."""
    return next((line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")), "")
