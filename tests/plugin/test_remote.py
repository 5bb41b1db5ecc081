"""Workers of pytest-xdist that are on other machines: here, two servers on 127.0.0.1, each in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugin.inner import KERNEL, Inner


@pytest.fixture
def servers(tmp_path: Path, inner: Inner) -> Iterator[list[str]]:
    """Two of execnet's socket servers, as words for --tx."""
    processes = []
    words = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "execnet.script.socketserver", "127.0.0.1:0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={**os.environ, "XDG_RUNTIME_DIR": str(inner.runtime)},
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        port = process.stdout.readline().rpartition(", ")[2].strip().rstrip(")")
        words.append(f"--tx=socket=127.0.0.1:{port}//chdir={folder}")
    yield words
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_tests_of_an_installed_package_run_on_other_machines(inner: Inner, servers: list[str], tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    result = inner.run(
        f"--kernel={KERNEL}",
        f"--record={record}",
        *("-d", *servers),
        *("--pyargs", "harness.contracts", "-k", "hom.create.value_size"),
    )
    assert result.status == 0, result.out
    found = json.loads(record.read_text())
    assert found["runs"][0]["workers"] == len(servers)
    assert found["results"]
    assert {one["outcome"] for one in found["results"]} == {"passed"}
    assert all(one["observations"] for one in found["results"])
