"""What a machine names as the reason for a missing answer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import GuestHung, QemuStalled
from harness.guest import calls, wire
from harness.vm import diagnosis
from harness.vm.machine import Machine, State
from harness.vm.spec import Needs

STARVED = "QEMU got 0.2 s of processor time in 5.0 s and waited for more"


ANSWERS = {
    "agent.ping": 1.0,
    "agent.last_words": {"stdout": b"", "stderr": b"", "stacks": b""},
    "agent.signal": None,
}


class SilentProcess:
    """A channel to a guest whose agent answers, and whose other processes do not."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.waiting: object = None

    def request(self, process: int, name: str, _request: object, **_: object) -> Any:
        if process != wire.AGENT:
            raise GuestHung(f"no answer to {name} within 2 s")
        self.asked.append(name)
        return ANSWERS[name]


class Host:
    """What each look at QEMU finds."""

    def __init__(self, *found: str | None) -> None:
        self._found = list(found)

    def look(self) -> None:
        """Take a sample."""

    def trouble(self) -> str | None:
        return self._found.pop(0)


def machine(monkeypatch: pytest.MonkeyPatch, *found: str | None) -> tuple[Machine, SilentProcess]:
    monkeypatch.setattr(diagnosis, "Watch", lambda _pid: Host(*found))
    channel = SilentProcess()
    process: Any = SimpleNamespace(pid=lambda: 0, console=list, monitor_answers=lambda _timeout: True)
    spec: Any = SimpleNamespace(label="6.1", needs=Needs())
    made = Machine(spec, folder=Path(), process=process, channel=channel, about={"release": "6.1.0"}, boot_log=[])  # type: ignore[arg-type]
    return made, channel


def ask(made: Machine) -> None:
    made.request(1, calls.request(calls.Process.close, ""), 2.0, calls.Process.close, "work()")


def test_a_process_that_hangs_is_killed_where_this_machine_let_its_guest_run(monkeypatch: pytest.MonkeyPatch) -> None:
    made, channel = machine(monkeypatch, None, None)
    with pytest.raises(GuestHung, match=r"work\(\) within 2 s; the kernel 6\.1\.0 is alive"):
        ask(made)
    assert channel.asked == ["agent.ping", "agent.last_words", "agent.signal"]
    assert made.state is State.READY


def test_starvation_that_shows_after_a_short_time_out_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    made, channel = machine(monkeypatch, None, STARVED)
    with pytest.raises(QemuStalled, match=r"work\(\) within 2 s: QEMU got 0\.2 s"):
        ask(made)
    assert channel.asked == ["agent.ping"]
    assert made.state is State.DEAD
