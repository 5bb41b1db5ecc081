"""Downloads: resumed, checked, and clear about what went wrong."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import pytest

from harness.errors import MirrorError
from harness.kernel.files.download import fetch
from tests.unit.kernel.kernel_fakes import Server

DATA = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def served(server: Server) -> Server:
    (server.root / "file").write_bytes(DATA)
    return server


def test_a_file_arrives_whole_and_is_not_fetched_twice(served: Server, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    for _ in range(2):
        assert fetch(
            f"{served.url}/file", tmp_path / "t", size=len(DATA), sha256=SHA256, meter=lambda *how: told.append(how)
        )
    assert (tmp_path / "t").read_bytes() == DATA
    assert len(served.requests) == 1
    assert told[0] == ("t", 0, len(DATA))
    assert told[-1] == ("t", len(DATA), len(DATA))
    assert not (tmp_path / "t.part").exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_continues_where_it_stopped(served: Server, tmp_path: Path, ranges: bool) -> None:
    served.cut["/file"] = 700_000
    with pytest.raises(MirrorError) as caught:
        fetch(f"{served.url}/file", tmp_path / "t", size=len(DATA), sha256=SHA256)
    assert "continues where it stopped" in caught.value.hint
    assert not (tmp_path / "t").exists()
    kept = (tmp_path / "t.part").stat().st_size
    assert 0 < kept <= 700_000
    served.cut.clear()
    served.ranges = ranges
    assert fetch(f"{served.url}/file", tmp_path / "t", size=len(DATA), sha256=SHA256)
    assert served.requests[-1] == ("/file", f"bytes={kept}-")
    assert (tmp_path / "t").read_bytes() == DATA


def test_a_truncated_file_that_ends_cleanly_is_refused_and_kept_to_go_on(served: Server, tmp_path: Path) -> None:
    (served.root / "file").write_bytes(DATA[:1000])
    with pytest.raises(MirrorError, match=f"truncated: 1000 of {len(DATA)} bytes"):
        fetch(f"{served.url}/file", tmp_path / "t", size=len(DATA), sha256=SHA256)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("content", [bytes(len(DATA)), DATA + b"more"], ids=["of the same size", "longer"])
def test_another_file_than_the_signed_one_is_refused_and_dropped(
    served: Server, tmp_path: Path, content: bytes
) -> None:
    (served.root / "file").write_bytes(content)
    with pytest.raises(MirrorError, match="not the file that its index names") as caught:
        fetch(f"{served.url}/file", tmp_path / "t", size=len(DATA), sha256=SHA256)
    assert SHA256 in caught.value.expected
    assert sorted(path.name for path in tmp_path.glob("t*")) == []


def test_a_leftover_longer_than_the_file_is_fetched_again(served: Server, tmp_path: Path) -> None:
    (tmp_path / "t.part").write_bytes(DATA + b"x")
    assert fetch(f"{served.url}/file", tmp_path / "t", size=len(DATA), sha256=SHA256)


def test_a_wrong_file_at_the_target_is_replaced(served: Server, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"wrong")
    assert fetch(f"{served.url}/file", tmp_path / "t", size=len(DATA), sha256=SHA256)
    assert (tmp_path / "t").read_bytes() == DATA


def test_a_missing_file_is_false_and_not_an_error(served: Server, tmp_path: Path) -> None:
    assert not fetch(f"{served.url}/nothing", tmp_path / "t", sha256=SHA256)
    assert not fetch(f"file://{tmp_path}/nothing", tmp_path / "t", sha256=SHA256)


def test_a_file_address_is_copied(tmp_path: Path) -> None:
    (tmp_path / "a b").write_bytes(DATA)
    assert fetch(f"file://{tmp_path}/a%20b", tmp_path / "t", size=len(DATA), sha256=SHA256)


def test_a_server_that_is_down_is_a_mirror_error(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(MirrorError, match="Connection refused"):
        fetch(f"http://127.0.0.1:{port}/file", tmp_path / "t", size=1, sha256=SHA256)


def test_a_protocol_it_does_not_speak_is_said(tmp_path: Path) -> None:
    with pytest.raises(MirrorError, match="does not speak 'ftp'"):
        fetch("ftp://127.0.0.1/file", tmp_path / "t", size=1, sha256=SHA256)
