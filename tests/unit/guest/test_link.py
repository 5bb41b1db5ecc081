"""The guest's end of the channel where a port carries everything."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from harness.guest import link
from harness.guest.link import HostLink


@pytest.fixture
def port(tmp_path: Path) -> Path:
    path = tmp_path / "port"
    os.mkfifo(path)
    return path


def test_a_port_that_is_no_terminal_carries_what_is_sent(port: Path) -> None:
    one = HostLink(str(port), "")
    assert not one.is_shared
    assert one.poll() == b""
    one.send(b"frame")
    assert one.receive() == b"frame"
    os.close(one.fileno())


def test_a_port_that_appears_late_is_waited_for(port: Path) -> None:
    late = port.with_name("late")
    there = threading.Timer(0.1, lambda: os.link(port, late))
    there.start()
    os.close(HostLink(str(late), "").fileno())
    there.join()


def test_a_port_that_never_appears_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_PORT_SECONDS", 0.0)
    with pytest.raises(FileNotFoundError):
        HostLink(str(tmp_path / "port"), "")
