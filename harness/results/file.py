"""Run records on disk: one JSON file, and the journal that replaces it during the run.

A journal has a line for each event, written at once, so a killed run leaves all its results; readers treat it as an
incomplete record. At the end of the run, the complete record replaces the file.
"""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import CacheError, RecordError, SelectorError
from harness.kernel.version import KernelVersion
from harness.results.contracts import by_contract
from harness.results.types import (
    FORMAT,
    VERSION,
    Deselected,
    NotRun,
    RecordedKernel,
    RecordedResult,
    RecordedRun,
    RunRecord,
)
from harness.util import cache

_JOURNAL = b'{"journal":'


class _Head(msgspec.Struct):
    """The header of every file of this kind."""

    format: Any = None
    version: Any = None


class _Line(msgspec.Struct, omit_defaults=True):
    """One line of a journal, after the first."""

    run: RecordedRun | None = None
    kernel: RecordedKernel | None = None
    result: RecordedResult | None = None
    plan: tuple[NotRun, ...] = ()
    left_out: tuple[Deselected, ...] = ()


_RECORD = msgspec.json.Decoder(RunRecord)
_LINE = msgspec.json.Decoder(_Line)


def schema() -> dict[str, Any]:
    """Return the JSON schema of a record, generated from the classes."""
    made = msgspec.json.schema(RunRecord)
    for definition in made["$defs"].values():
        # Python 3.13 removes the common indentation of docstrings, earlier versions keep it.
        summary, _, attributes = inspect.cleandoc(definition["description"]).partition("\n\nAttributes:\n")
        definition["description"] = " ".join(summary.split())
        for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE):
            definition["properties"][name]["description"] = " ".join(text.split())
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{FORMAT}, version {VERSION}",
        **plain,
    }


def read(path: Path) -> RunRecord:
    """Read a run record, or the journal of a run that did not come to its end; each of its results is of one contract.

    Raises:
        RecordError: It cannot be read, is not a record, has another version, or contradicts itself.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(
            f"the run record {path} cannot be read: {error.strerror}",
            hint="pytest --record=FILE writes one",
        ) from error
    return parse(content, str(path))


def parse(content: bytes, name: str) -> RunRecord:
    """Read a run record.

    Args:
        content: The file's bytes.
        name: Its name in messages.

    Raises:
        RecordError: As for :func:`read`.
    """
    try:
        if content.startswith(_JOURNAL):
            record = _parse_journal(content, name)
        else:
            _check_head(msgspec.json.decode(content, type=_Head), name)
            record = _RECORD.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # a ValidationError is a DecodeError
        raise RecordError(
            f"{name} is not a run record: {error}",
            expected="a complete file from pytest --record=FILE or harness merge",
        ) from error
    _check(record, name)
    return by_contract(record)


def _check_head(head: _Head, name: str) -> None:
    if head.format != FORMAT:
        raise RecordError(
            f"{name} is not a run record" + (f" but {head.format!r}" if isinstance(head.format, str) else ""),
            expected=f'a JSON object whose "format" is "{FORMAT}"; pytest --record=FILE writes one',
        )
    if head.version != VERSION:
        newer = isinstance(head.version, int) and head.version > VERSION
        raise RecordError(
            f"{name} is a run record of version {head.version!r}",
            expected=f"version {VERSION}, which this kernel-harness reads",
            hint="read it with the newer kernel-harness that wrote it" if newer else "record the run again",
        )


def _parse_journal(content: bytes, name: str) -> RunRecord:
    first, *lines = content.split(b"\n")
    head: dict[str, Any] = msgspec.json.decode(first, type=dict[str, Any])
    _check_head(_Head(head.get("format"), head.get("version")), name)
    if lines:
        lines.pop()  # The text after the last end of line was being written when the run ended; "" for none.
    draft = Draft()
    for line in lines:
        draft.take(_LINE.decode(line))
    return draft.record()


def _check(record: RunRecord, name: str) -> None:
    """Raise when parts of a record refer to missing parts, or when two parts contradict each other."""
    labels = [kernel.label for kernel in record.kernels]
    runs = [run.id for run in record.runs]
    cells = [(result.test, result.kernel) for result in record.results]
    complaint = ""
    if len(set(labels)) < len(labels):
        complaint = "two of its kernels have one label"
    elif len(set(runs)) < len(runs):
        complaint = "two of its runs have one id"
    elif len(set(cells)) < len(cells):
        complaint = "it has two results of one test on one kernel"
    elif stranger := next((one for one in {kernel for _, kernel in cells} if one not in labels), None):
        complaint = f"it has results on the kernel {stranger!r}, which is not among its kernels"
    elif stranger := next((one for one in {result.run for result in record.results} if one not in runs), None):
        complaint = f"it has results of the run {stranger!r}, which is not among its runs"
    for kernel in record.kernels:
        try:
            kernel_order(kernel)
        except SelectorError as error:
            complaint = complaint or error.what
    if complaint:
        raise RecordError(f"the run record {name} contradicts itself: {complaint}", hint="record the run again")


def write(path: Path, record: RunRecord) -> None:
    """Write a complete record, or none.

    Raises:
        RecordError: It cannot be written.
    """
    replace_file(path, msgspec.json.encode(record) + b"\n")


def replace_file(path: Path, content: bytes, what: str = "run record") -> None:
    """Write a complete file, or none.

    Args:
        path: The file; its folder is created when missing.
        content: The content.
        what: Its name in messages.

    Raises:
        RecordError: It cannot be written.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        with cache.new_file(path) as temporary:
            temporary.write_bytes(content)
    except CacheError as error:
        # Its message is about the cache.
        cause = error.__cause__
        raise _unwritable(path, what, cause.strerror if isinstance(cause, OSError) else error.what) from error
    except OSError as error:
        raise _unwritable(path, what, error.strerror) from error


def _unwritable(path: Path, what: str, why: str | None) -> RecordError:
    return RecordError(
        f"the {what} {path} cannot be written: {why or 'the disk does not say why'}",
        expected="a file in a folder that this user may write, on a disk with free space",
        hint="name another file",
    )


class Draft:
    """A record during the run. Later parts replace earlier parts about the same thing."""

    def __init__(self) -> None:
        self._runs: dict[str, RecordedRun] = {}
        self._kernels: dict[str, RecordedKernel] = {}
        self._results: dict[tuple[str, str], RecordedResult] = {}
        self._planned: dict[tuple[str, str], NotRun] = {}
        self._left_out: dict[tuple[str, str], Deselected] = {}

    @property
    def kernels(self) -> dict[str, RecordedKernel]:
        """The kernels so far, by label."""
        return self._kernels

    @property
    def reached_all(self) -> bool:
        """Whether every test that should run has a result."""
        return self._planned.keys() <= self._results.keys()

    def take(self, line: _Line) -> None:
        """Add the content of a journal line."""
        if line.run is not None:
            self._runs[line.run.id] = line.run
        if line.kernel is not None:
            self._kernels[line.kernel.label] = line.kernel
        if line.result is not None:
            self._results[line.result.test, line.result.kernel] = line.result
        for planned in line.plan:
            self._planned[planned.test, planned.kernel] = planned
        for left_out in line.left_out:
            self._left_out[left_out.test, left_out.kernel] = left_out

    def record(self) -> RunRecord:
        """Return the record so far."""
        return assemble(
            self._runs.values(),
            self._kernels.values(),
            self._results.values(),
            self._left_out.values(),
            (one for cell, one in self._planned.items() if cell not in self._results),
            order=list(self._planned),
        )


def assemble(
    runs: Iterable[RecordedRun],
    kernels: Iterable[RecordedKernel],
    results: Iterable[RecordedResult],
    left_out: Iterable[Deselected],
    not_run: Iterable[NotRun],
    *,
    order: Iterable[tuple[str, str]] = (),
) -> RunRecord:
    """Return a record with its parts in order: runs by start, kernels by version.

    Args:
        runs: As in :class:`RunRecord`, in any order; so are the rest.
        kernels: Likewise.
        results: Likewise.
        left_out: Likewise.
        not_run: Likewise.
        order: Tests and kernels in the order of results; others come last.
    """
    place = {cell: number for number, cell in enumerate(order)}
    return RunRecord(
        FORMAT,
        VERSION,
        tuple(sorted(runs, key=lambda run: (run.started, run.id))),
        tuple(sorted(kernels, key=kernel_order)),
        tuple(sorted(results, key=lambda result: place.get((result.test, result.kernel), len(place)))),
        tuple(left_out),
        tuple(not_run),
    )


def kernel_order(kernel: RecordedKernel) -> tuple[KernelVersion, str]:
    """Return the key for sorting kernels.

    Raises:
        SelectorError: Its version is malformed.
    """
    return KernelVersion.parse(kernel.version), kernel.label


class Journal:
    """The file of a run in progress.

    Args:
        path: The record's file; its old content is removed.

    Raises:
        RecordError: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.draft = Draft()
        head = msgspec.json.encode({"journal": True, "format": FORMAT, "version": VERSION})
        replace_file(path, head + b"\n")
        try:
            self._stream: io.FileIO | None = path.open("ab", buffering=0)
        except OSError as error:
            raise _unwritable(path, "run record", error.strerror) from error

    def add(
        self,
        *,
        run: RecordedRun | None = None,
        kernel: RecordedKernel | None = None,
        result: RecordedResult | None = None,
        plan: Iterable[NotRun] = (),
        left_out: Iterable[Deselected] = (),
    ) -> None:
        """Write what is known now; it survives the end of this process.

        Raises:
            RecordError: It cannot be written.
        """
        line = _Line(run, kernel, result, tuple(plan), tuple(left_out))
        self.draft.take(line)
        if self._stream is not None:
            try:
                self._stream.write(msgspec.json.encode(line) + b"\n")
            except OSError as error:
                self.close()
                raise _unwritable(self._path, "run record", error.strerror) from error

    def finish(self, run: RecordedRun) -> None:
        """Replace the journal by the complete record.

        Args:
            run: The run with its end; only in the record, because a journal is for a run that has not ended.

        Raises:
            RecordError: It cannot be written; the journal is still there.
        """
        self.close()
        self.draft.take(_Line(run))
        write(self._path, self.draft.record())

    def close(self) -> None:
        """Stop writing; the journal stays."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
