"""Libraries that go into the guest image where this machine has them, or where they are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import BuildError, ToolMissing
from harness.image import bcc
from harness.image.build import optional_libraries
from harness.remote import libbpf


def test_a_library_is_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "libbpf.so.1.5.0"
    other.touch()
    monkeypatch.setenv("HARNESS_LIBBPF", str(other))
    assert optional_libraries() == {"libbpf.so.1": other}
    other.unlink()
    with pytest.raises(BuildError, match=r"HARNESS_LIBBPF names .*libbpf\.so\.1\.5\.0"):
        optional_libraries()


def test_without_libbpf_the_loader_says_what_to_install(take_away: Callable[[str], None]) -> None:
    take_away("libbpf.so.1")
    commands: Any = None
    with pytest.raises(ToolMissing, match="apt-get install libbpf1"):
        libbpf.Libbpf(commands)


def test_without_bcc_the_image_says_what_to_install(take_away: Callable[[str], None]) -> None:
    take_away("libbcc.so.0")
    with pytest.raises(ToolMissing, match="apt-get install python3-bpfcc"):
        bcc.bcc_archive()
