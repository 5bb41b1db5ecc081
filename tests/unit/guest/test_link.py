"""The guest's end of the channel where a port carries everything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
