"""A cache of its own for each test, a web server, and a signed archive."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import needs_program
from tests.unit.kernel.kernel_fakes import Archive, Server, Signer, serve


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder; nothing here touches the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HARNESS_CACHE", str(folder))
    # Nothing outside of 127.0.0.1 is asked, whatever a test does.
    monkeypatch.setenv("HARNESS_DEBIAN_MIRROR", "http://127.0.0.1:9/debian")
    monkeypatch.setenv("HARNESS_DEBIAN_SECURITY_MIRROR", "http://127.0.0.1:9/debian")
    monkeypatch.setenv("HARNESS_DEBIAN_KEYRING", "/nowhere/so-no-mirror-is-asked.gpg")
    monkeypatch.setenv("HARNESS_DEBIAN_SNAPSHOT", "http://127.0.0.1:9")
    monkeypatch.setenv("HARNESS_DEBIAN_REMOVED_KEYS", "/nowhere/removed.gpg")
    for family in ("ALMA", "ROCKY", "CENTOS", "CENTOS_VAULT", "FEDORA", "AMAZON", "ORACLE", "OPENSUSE", "UBUNTU"):
        monkeypatch.setenv(f"HARNESS_MIRROR_{family}", "http://127.0.0.1:9")
    monkeypatch.delenv("HARNESS_DISTRIBUTIONS", raising=False)
    monkeypatch.setenv("HARNESS_KERNEL_ORG", "http://127.0.0.1:9")
    monkeypatch.setenv("HARNESS_UBUNTU_MAINLINE", "http://127.0.0.1:9")
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A web server over an empty folder."""
    root = tmp_path / "www"
    root.mkdir()
    with serve(root) as running:
        yield running


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Look for what signs an archive, test by test: what a fixture of the session raises is raised for all of them."""
    if isinstance(item, pytest.Function) and "signers" in item.fixturenames:
        for program in ("gpg", "gpg-agent", "gpgv"):
            needs_program(program)


@pytest.fixture(scope="session")
def signers() -> Iterator[tuple[Signer, Signer]]:
    """Two keys: the archive's, and a stranger's."""
    # gpg's socket needs a short path.
    home = Path(tempfile.mkdtemp(prefix="harness-gpg-"))
    both = Signer(home / "a"), Signer(home / "b", "stranger")
    yield both
    for signer in both:
        signer.stop()
    # The agents that were told to end remove their sockets at the same time.
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def archive(server: Server, signers: tuple[Signer, Signer], monkeypatch: pytest.MonkeyPatch) -> Archive:
    """A Debian archive that the settings name as the mirror."""
    monkeypatch.setenv("HARNESS_DEBIAN_MIRROR", f"{server.url}/debian")
    monkeypatch.setenv("HARNESS_DEBIAN_SECURITY_MIRROR", f"{server.url}/debian")
    monkeypatch.setenv("HARNESS_DEBIAN_KEYRING", str(signers[0].keyring))
    return Archive(server.root / "debian", signers[0])
