"""What a guest process prints is kept, however it ends; of much, the ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from harness.guest import process
from harness.guest.capture import Capture


@pytest.fixture
def printed() -> Iterator[Capture]:
    made = Capture()
    yield made
    made.close()


def test_what_a_killed_process_printed_is_there(printed: Capture) -> None:
    out, err = printed.files
    script = "import os; print('out', flush=True); os.write(2, b'err'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script], stdout=out, stderr=err, check=False)
    assert printed.printed() == {"stdout": b"out\n", "stderr": b"err"}


def test_of_a_long_output_the_ends_are_kept_and_what_is_omitted_is_said(printed: Capture) -> None:
    os.write(printed.files[0], b"first" + bytes(10 << 20) + b"last")
    shown = printed.printed()["stdout"]
    assert len(shown) < 1.1 * (1 << 20)
    assert shown.startswith(b"first")
    assert shown.endswith(b"last")
    assert f"[... {(10 << 20) + 9 - (1 << 20)} bytes are omitted here ...]".encode() in shown


def test_the_memory_of_the_middle_is_given_back_while_it_prints(printed: Capture) -> None:
    out = printed.files[0]
    for number in range(8):
        os.write(out, b"%d" % number + b"x" * (8 << 20))
        printed.trim()
        assert os.fstat(out).st_blocks * 512 < 16 << 20
    shown = printed.printed()["stdout"]
    assert shown.startswith(b"0x")
    assert shown.endswith(b"xxx")
    assert b"\0" not in shown


def test_after_what_was_taken_the_next_output_is_kept_anew(printed: Capture) -> None:
    out = printed.files[0]
    for text in (b"a", b"b"):
        for _ in range(3):
            os.write(out, text * (8 << 20))
            printed.trim()
        shown = printed.take()["stdout"]
        assert set(shown.replace(shown[shown.index(b"\n[") : shown.index(b"]\n") + 2], b"")) == {text[0]}
    assert printed.take() == {"stdout": b"", "stderr": b""}


class WithoutText(Exception):
    def __str__(self) -> str:
        raise LookupError("no text today")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("short"), "short"),
        (WithoutText(), "(its __str__ raised LookupError)"),
        (ValueError("x" * (1 << 20)), "characters are omitted here"),
    ],
)
def test_any_exception_can_be_described(error: Exception, message: str) -> None:
    try:
        raise error
    except Exception as raised:  # noqa: BLE001 - each of them
        found = process.describe(raised)
    assert message in found["message"]
    assert "test_any_exception_can_be_described" in found["traceback"]
    assert len(found["message"]) + len(found["traceback"]) < 200_000


def test_an_errno_that_is_no_number_is_none() -> None:
    error = OSError()
    error.errno = "EPERM"  # type: ignore[assignment]
    assert process.describe(error)["errno"] == 0
