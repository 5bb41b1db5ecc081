"""Attaching to a guest that another process holds, with a prompt that needs no guest."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import KernelCrashed, UsageError
from harness.remote import attach
from harness.remote.prompt import PromptReply
from harness.vm.machine import State


class FakePrompt:
    """Answers "run" with its own source, after an interrupt when that is "wait"."""

    release = "6.1.0-test"
    greeting = "hello"

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self.machine.prompts.append(self)
        self.interrupts = 0
        self.closed = False
        self._kind, self._value = "", ""

    def begin(self, kind: str, value: Any) -> None:
        self._kind, self._value = kind, value

    def poll(self, timeout: float) -> PromptReply | None:
        if self._value == "crash":
            self.machine.state = State.DEAD
            raise KernelCrashed("the kernel crashed: test")
        if self._value == "wait" and not self.interrupts:
            time.sleep(timeout)
            return None
        return PromptReply(f"{self._kind} {self._value}", "", raised=self.interrupts > 0)

    def interrupt(self) -> None:
        self.interrupts += 1

    def complete(self, text: str) -> list[str]:
        return [text + "1", text + "2"]

    def close(self) -> None:
        self.closed = True


class Waiting:
    """A holder that waits in a thread of its own, as a paused pytest does."""

    def __init__(self, folder: Path, *, terminal: bool, timeout: float | None) -> None:
        self.machine = SimpleNamespace(folder=folder, state=State.READY, prompts=[])
        self.holder = attach.Holder(self.machine, "test_x failed here")  # type: ignore[arg-type]
        self._read, self._write = os.pipe()
        self.attached: bool | None = None
        key = self._read if terminal else None

        def wait() -> None:
            self.attached = self.holder.wait(key=key, timeout=timeout)

        self._thread = threading.Thread(target=wait)
        self._thread.start()

    def press(self) -> None:
        os.write(self._write, b"\n")

    def ended(self, within: float = 20.0) -> bool:
        self._thread.join(within)
        return not self._thread.is_alive()

    def close(self) -> None:
        self.press()
        assert self.ended()
        self.holder.close()
        os.close(self._read)
        os.close(self._write)


@pytest.fixture
def paused(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiting]:
    """A holder: on a terminal, unless a parameter says otherwise."""
    monkeypatch.setattr(attach, "GuestPrompt", FakePrompt)
    terminal, timeout = getattr(request, "param", (True, None))
    waiting = Waiting(tmp_path, terminal=terminal, timeout=timeout)
    yield waiting
    waiting.close()


NO_TERMINAL = pytest.mark.parametrize("paused", [(False, 60.0)], indirect=True)


def run(prompt: attach.AttachedPrompt, source: str) -> PromptReply:
    prompt.begin("run", source)
    answer = None
    while answer is None:
        answer = prompt.poll(10)
    return answer


def test_what_is_typed_is_run_there_and_answered(paused: Waiting) -> None:
    with attach.AttachedPrompt(paused.machine.folder) as prompt:
        assert prompt.release == "6.1.0-test"
        assert prompt.greeting == "test_x failed here\nhello"
        assert run(prompt, "1") == PromptReply("run 1", "")
        assert prompt.complete("ma") == ["ma1", "ma2"]
        assert run(prompt, "2") == PromptReply("run 2", "")


def test_an_interrupt_reaches_what_runs(paused: Waiting) -> None:
    with attach.AttachedPrompt(paused.machine.folder) as prompt:
        prompt.begin("run", "wait")
        assert prompt.poll(0.2) is None
        prompt.interrupt()
        assert prompt.poll(10) == PromptReply("run wait", "", raised=True)


def test_an_interrupt_that_comes_late_does_nothing(paused: Waiting) -> None:
    with attach.AttachedPrompt(paused.machine.folder) as prompt:
        assert run(prompt, "1") == PromptReply("run 1", "")
        prompt.interrupt()
        assert run(prompt, "2") == PromptReply("run 2", "")


def test_on_a_terminal_another_may_attach_after_the_first(paused: Waiting) -> None:
    for _ in range(2):
        with attach.AttachedPrompt(paused.machine.folder) as prompt:
            run(prompt, "1")
    assert not paused.ended(0.2)
    paused.press()
    assert paused.ended()
    assert paused.attached is True
    assert [prompt.closed for prompt in paused.machine.prompts] == [True, True]


def test_a_key_ends_the_pause_under_whoever_is_attached(paused: Waiting) -> None:
    with attach.AttachedPrompt(paused.machine.folder) as prompt:
        run(prompt, "1")
        paused.press()
        assert paused.ended()
        with pytest.raises(attach.Detached, match="the test continues"):
            run(prompt, "2")


def test_a_key_ends_the_pause_while_something_runs_without_end(paused: Waiting) -> None:
    with attach.AttachedPrompt(paused.machine.folder) as prompt:
        prompt.begin("run", "wait")
        paused.press()
        assert paused.ended()
        with pytest.raises(attach.Detached, match="the test continues"):
            prompt.poll(10)


@NO_TERMINAL
def test_without_a_terminal_the_end_of_the_session_ends_the_pause(paused: Waiting) -> None:
    with attach.AttachedPrompt(paused.machine.folder) as prompt:
        run(prompt, "1")
        assert not paused.ended(0.2)
    assert paused.ended()
    assert paused.attached is True


@pytest.mark.parametrize("paused", [(False, 0.1)], indirect=True)
def test_without_a_terminal_the_time_ends_the_pause(paused: Waiting) -> None:
    assert paused.ended()
    assert paused.attached is False


@NO_TERMINAL
def test_who_goes_while_something_runs_leaves_no_process_behind(paused: Waiting) -> None:
    with attach.AttachedPrompt(paused.machine.folder) as prompt:
        prompt.begin("run", "wait")
        assert prompt.poll(0.2) is None
    assert paused.ended()
    assert paused.machine.prompts[0].closed


def test_a_crash_is_reported_and_ends_the_pause(paused: Waiting) -> None:
    with attach.AttachedPrompt(paused.machine.folder) as prompt:
        prompt.begin("run", "crash")
        with pytest.raises(attach.Detached, match="the kernel crashed: test"):
            prompt.poll(10)
    assert paused.ended()


@NO_TERMINAL
def test_one_that_speaks_another_language_is_shown_out(paused: Waiting) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(paused.machine.folder / attach.SOCKET))
        stranger.sendall(b"GET / HTTP/1.0\r\n\r\n" * 10)
        assert paused.ended()


def test_a_second_user_at_the_same_time_gets_the_reason_to_wait(
    paused: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach, "_GREETING_TIMEOUT", 0.2)
    with attach.AttachedPrompt(paused.machine.folder), pytest.raises(attach.Detached, match="no greeting") as caught:
        attach.AttachedPrompt(paused.machine.folder)
    assert "another user may be attached" in caught.value.hint


@pytest.mark.parametrize("folder", ["absent", "."])
def test_where_nothing_waits_one_clear_error_says_so(tmp_path: Path, folder: str) -> None:
    with pytest.raises(UsageError, match="there is no guest at"):
        attach.AttachedPrompt(tmp_path / folder)


def test_a_socket_without_a_server_counts_as_missing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / attach.SOCKET))
    with pytest.raises(UsageError, match="there is no guest at"):
        attach.AttachedPrompt(tmp_path)
