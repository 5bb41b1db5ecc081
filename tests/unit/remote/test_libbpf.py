"""Objects of the wrong byte order, which are refused before a guest has them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.errors import UsageError
from harness.remote import libbpf
from harness.remote.command import Commands
from tests.unit.vm.specs import spec_of

LITTLE, BIG = (b"\x7fELF\x02" + order + bytes(58) for order in (b"\x01", b"\x02"))


class FakeProcess:
    """A guest process of some architecture, which opens whatever it is given."""

    def __init__(self, name: str) -> None:
        made = spec_of("/k/image", "/i/image.cpio")
        spec = dataclasses.replace(made, kernel=dataclasses.replace(made.kernel, architecture=name))
        self.machine = SimpleNamespace(spec=spec)

    def ask_within(self, *_: object) -> Any:
        return 0, 1, b"", {"maps": {}, "programs": {}}


@pytest.fixture(autouse=True)
def a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "require_library", lambda: None)


def library(name: str) -> libbpf.Libbpf:
    return libbpf.Libbpf(cast("Commands", SimpleNamespace(process=FakeProcess(name))))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("s390x", LITTLE, r"my_object is little-endian, and the guest of .* \(s390x\) is big-endian"),
        ("amd64", BIG, r"my_object is big-endian, and the guest of .* \(x86-64\) is little-endian"),
    ],
)
def test_an_object_of_the_other_byte_order_is_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / "my_object.bpf.o"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(UsageError, match=message) as caught:
            library(name).open(source, "my_object")
        assert f"compile it with -target {'bpfeb' if name == 's390x' else 'bpfel'}" in str(caught.value)


@pytest.mark.parametrize(("name", "data"), [("s390x", BIG), ("amd64", LITTLE), ("arm64", LITTLE), ("s390x", b"no ELF")])
def test_another_one_is_opened(name: str, data: bytes) -> None:
    assert library(name).open(data).name == "object"
