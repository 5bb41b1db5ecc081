"""The guest's set-up, as far as it needs no guest."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from harness.guest import setup


def test_a_device_that_appears_late_is_waited_for_and_the_console_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    late = tmp_path / "late"
    there = threading.Timer(0.1, late.touch)
    there.start()
    assert setup.wait_for(str(late)) == str(late)
    there.join()
    assert capfd.readouterr().err == ""
    late.unlink()
    monkeypatch.setattr(setup, "_APPEARS", 0.0)
    there = threading.Timer(0.1, late.touch)
    there.start()
    setup.wait_for(str(late))
    there.join()
    assert capfd.readouterr().err == f"harness: waiting for {late}, which no driver has made yet\n"


def test_a_virtio_port_is_found_by_its_name_and_not_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "_VIRTIO_PORTS", str(tmp_path / "ports"))
    for port, name in (("vport0p1", "another"), ("vport1p1", ""), ("vport2p1", "")):
        (tmp_path / "ports" / port).mkdir(parents=True)
        if name:
            (tmp_path / "ports" / port / "name").write_text(f"{name}\n")
    named = threading.Timer(0.1, lambda: (tmp_path / "ports/vport1p1/name").write_text("harness\n"))
    named.start()
    assert setup.wait_for("/dev/virtio-ports/harness") == "/dev/vport1p1"
    named.join()
