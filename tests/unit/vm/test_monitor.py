"""QEMU's monitor, as the harness reads it while a guest runs."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator

import pytest

from harness.errors import MonitorError
from harness.vm.monitor import Monitor

SHUTDOWN = {"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-reset"}}


@pytest.fixture
def ends() -> Iterator[tuple[Monitor, socket.socket]]:
    ours, theirs = socket.socketpair()
    with theirs:
        monitor = Monitor(ours)
        yield monitor, theirs
        monitor.close()


def say(theirs: socket.socket, *messages: object) -> None:
    theirs.sendall(b"".join(json.dumps(message).encode() + b"\r\n" for message in messages))


def test_the_reason_of_an_end_is_found_among_other_events(ends: tuple[Monitor, socket.socket]) -> None:
    monitor, theirs = ends
    say(theirs, {"QMP": {}}, {"return": {}}, {"event": "RESUME"})
    assert monitor.end() == ""
    say(theirs, SHUTDOWN, {"event": "STOP"})
    theirs.close()
    assert monitor.end() == "guest-reset"
    assert monitor.end() == "guest-reset"


def test_an_event_in_two_pieces_is_read(ends: tuple[Monitor, socket.socket]) -> None:
    monitor, theirs = ends
    text = json.dumps(SHUTDOWN).encode()
    theirs.sendall(text[:20])
    assert monitor.end() == ""
    theirs.sendall(text[20:] + b"\r\n")
    assert monitor.end() == "guest-reset"


def test_a_qemu_that_answers_is_alive(ends: tuple[Monitor, socket.socket]) -> None:
    monitor, theirs = ends
    say(theirs, {"return": {}}, {"return": {"status": "running"}, "id": "kernel-harness probe"})
    assert monitor.answers(20.0)
    assert not monitor.answers(0.2)


def test_a_monitor_that_is_gone_says_nothing(ends: tuple[Monitor, socket.socket]) -> None:
    monitor, theirs = ends
    theirs.close()
    assert not monitor.answers(20.0)
    monitor.close()
    assert monitor.end() == ""
    assert not monitor.answers(20.0)


def test_an_event_is_waited_for_and_what_comes_with_it_is_not_lost(ends: tuple[Monitor, socket.socket]) -> None:
    monitor, theirs = ends
    say(theirs, {"return": {}}, {"event": "RESUME"}, SHUTDOWN)
    assert monitor.wait_for("RESUME", 10)
    assert monitor.shutdown == "guest-reset"
    assert not monitor.wait_for("RESUME", 0)
    theirs.close()
    assert not monitor.wait_for("RESUME", 10)


def test_a_command_goes_with_its_descriptor_and_its_own_answer_is_awaited(ends: tuple[Monitor, socket.socket]) -> None:
    monitor, theirs = ends
    say(theirs, {"return": {}}, {"event": "RESUME"}, {"return": {}, "id": "kernel-harness 1"})
    with socket.socket() as given:
        monitor.run({"execute": "getfd", "arguments": {"fdname": "x"}}, 20.0, given.fileno())
    data, descriptors, *_ = socket.recv_fds(theirs, 4096, 2)
    assert json.loads(data) == {"execute": "getfd", "arguments": {"fdname": "x"}, "id": "kernel-harness 1"}
    assert len(descriptors) == 1
    os.close(descriptors[0])


def test_a_command_that_is_refused_says_why(ends: tuple[Monitor, socket.socket]) -> None:
    monitor, theirs = ends
    say(theirs, {"error": {"class": "GenericError", "desc": "no such hub"}, "id": "kernel-harness 1"})
    with pytest.raises(MonitorError, match="QEMU refused netdev_add: no such hub"):
        monitor.run({"execute": "netdev_add"}, 20.0)
    with pytest.raises(MonitorError, match="did not answer to netdev_add"):
        monitor.run({"execute": "netdev_add"}, 0.1)
    theirs.close()
    with pytest.raises(MonitorError, match="takes no netdev_add"):
        monitor.run({"execute": "netdev_add"}, 0.1)
