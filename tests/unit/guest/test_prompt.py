"""The guest's side of a prompt, run here: what is typed is run, shown and survived."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from harness.guest import prompt


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(prompt, "_names", {})
    yield prompt.start()
    signal.signal(signal.SIGINT, handler)


def test_the_names_that_are_promised_are_there(started: list[str]) -> None:
    assert {"bpf", "os", "Path", "cat", "ls", "dmesg"} <= set(started)
    for name in started:
        assert prompt.run(name) == ""


def test_values_are_shown_and_names_are_kept(capfd: pytest.CaptureFixture[str]) -> None:
    assert prompt.run("x = 6") == ""
    assert prompt.run("x * 7") == ""
    assert prompt.run("for i in range(2):\n    print(i)\n") == ""
    assert capfd.readouterr().out == "42\n0\n1\n"


def test_an_error_is_shown_from_the_typed_line_on(capfd: pytest.CaptureFixture[str]) -> None:
    assert prompt.run("def f():\n    return 1 / 0\n") == ""
    assert prompt.run("f()") == prompt.RAISED == prompt.last()
    shown = capfd.readouterr().err
    assert "return 1 / 0" in shown
    assert "ZeroDivisionError" in shown
    assert "prompt.py" not in shown
    assert prompt.run("1") == "" == prompt.last()


@pytest.mark.parametrize("source", ["raise SystemExit(3)", "exit()", "quit()"])
def test_exit_asks_to_leave(source: str) -> None:
    assert prompt.run(source) == prompt.LEAVE


def test_a_future_statement_holds_for_what_follows() -> None:
    assert prompt.run("from __future__ import annotations") == ""
    assert prompt.run("def f(x: unknown): pass\n") == ""


def interrupt_soon() -> None:
    def send() -> None:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=send).start()


def test_an_interrupt_ends_what_runs(capfd: pytest.CaptureFixture[str]) -> None:
    interrupt_soon()
    assert prompt.run("while True: time.sleep(0.01)\n") == prompt.RAISED
    assert "KeyboardInterrupt" in capfd.readouterr().err


def test_an_interrupt_between_inputs_does_nothing() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    assert prompt.run("1") == ""


def test_a_programs_output_and_status_are_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert prompt.command(["sh", "-c", "echo out; echo err >&2"]) == ""
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("out\n", "err\n")
    assert prompt.command(["sh", "-c", "exit 3"]) == prompt.RAISED
    assert prompt.command(["sh", "-c", "kill -9 $$"]) == prompt.RAISED
    assert capfd.readouterr().out == "sh: exit status 3\nsh: killed by signal 9\n"


def test_a_program_that_is_not_there_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert prompt.command(["no-such-program"]) == prompt.RAISED
    assert capfd.readouterr().err.startswith("no-such-program: No such file or directory")


def test_names_and_attributes_are_completed() -> None:
    prompt.run("something = 1")
    assert prompt.complete("somet") == ["something"]
    assert any(word.startswith("bpf.map_create") for word in prompt.complete("bpf.map_c"))
    assert prompt.complete("nothing_like_this") == []
