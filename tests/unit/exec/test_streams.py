"""The standard streams of a program in a guest, and the options that its run has."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.errors import UsageError
from harness.exec.run import Results, parse_env, parse_results
from harness.exec.streams import Input, Replayed, Writer


@contextmanager
def instead_of(descriptor: int, other: int) -> Iterator[None]:
    kept = os.dup(descriptor)
    os.dup2(other, descriptor)
    try:
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)


def taken(source: Input | Replayed) -> bytes:
    found = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        piece, is_last = source.take()
        found += piece
        if is_last:
            return found
        time.sleep(0.01)
    raise AssertionError(f"the input has not ended; so far: {found!r}")


def test_input_is_replayed_whole_for_each_guest() -> None:
    read, write = os.pipe()
    os.write(write, b"one\ntwo")
    os.close(write)
    with instead_of(0, read):
        source = Replayed(Input())
        assert taken(source) == b"one\ntwo"
    source.rewind()
    assert taken(source) == b"one\ntwo"
    os.close(read)


def test_a_closed_standard_input_is_empty() -> None:
    kept = os.dup(0)
    os.close(0)
    try:
        assert Input().take() == (b"", True)
    finally:
        os.dup2(kept, 0)
        os.close(kept)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"a\nb\n"], b"6.1 | a\n6.1 | b\n"),
        ([b"a", b"b\n", b"c"], b"6.1 | ab\n6.1 | c\n"),
        ([b"\n\n"], b"6.1 | \n6.1 | \n"),
        ([], b""),
    ],
)
def test_each_line_begins_with_the_kernel(pieces: list[bytes], expected: bytes) -> None:
    read, write = os.pipe()
    out = Writer(write, "6.1 | ", keep=4)
    for piece in pieces:
        out.write(piece)
    out.end()
    os.close(write)
    assert os.read(read, 1000) == expected
    assert bytes(out.kept) == b"".join(pieces)[:4]
    os.close(read)


def test_env_takes_values_names_and_patterns() -> None:
    environment = {"RUST_LOG": "info", "RUST_X": "1", "HOME": "/h"}
    assert parse_env(["A=b c", "E=", "RUST_*", "NONE"], environment) == {
        "A": "b c",
        "E": "",
        "RUST_LOG": "info",
        "RUST_X": "1",
    }
    with pytest.raises(UsageError, match="names no variable"):
        parse_env(["=x"], environment)


def test_results_name_a_format_and_perhaps_a_file() -> None:
    assert parse_results("tap") == Results("tap")
    assert parse_results("junit=/tmp/r.xml") == Results("junit", "/tmp/r.xml")
    for wrong in ("nose", "tap=out", "=x"):
        with pytest.raises(UsageError, match="--results"):
            parse_results(wrong)
