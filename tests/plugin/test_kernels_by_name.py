"""A kernel named in three ways: by a series of the snapshot archive, by a distribution, by the path of a package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.kernel import acquire, resolve
from harness.kernel.types import Kernel
from harness.util import cache
from tests.needs import needs_program
from tests.plugin.inner import KERNEL, Inner
from tests.servers.__main__ import files_of, fill, signer_in
from tests.servers.http import serve
from tests.unit.kernel.kernel_fakes import deb

TESTS = """
def release():
    import os
    return os.uname().release


def test_it_runs(guest, kernel):
    assert guest.call(release) == kernel.release == "{release}"
"""


@pytest.fixture
def repackaged() -> Kernel:
    for program in ("gpg", "gpg-agent", "gpgv", "rpmbuild", "rpm", "createrepo_c"):
        needs_program(program)
    # Modules are what takes long to repackage, and no test here needs one.
    return replace(acquire(resolve([KERNEL])[0]), modules=None)


@pytest.fixture
def settings(repackaged: Kernel, tmp_path: Path, runtime_folder: Path) -> Iterator[dict[str, str]]:
    """A server with that kernel, and what names the server."""
    with serve() as server, signer_in(runtime_folder) as signer:
        yield fill(server, tmp_path, [(repackaged, "6.6.15")], signer)


@pytest.fixture
def runtime_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a path short enough for gpg's socket."""
    folder = tmp_path_factory.mktemp("k")
    return folder / "g"


def test_a_repackaged_kernel_runs_under_every_name(
    inner: Inner, repackaged: Kernel, settings: dict[str, str], tmp_path: Path
) -> None:
    inner.write(test_it=TESTS.format(release=repackaged.release))
    (inner.folder / "x.deb").write_bytes(deb(files_of(repackaged, "boot"), compression=""))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "images").symlink_to(cache.cache_root() / "images")
    environment = {
        **settings,
        "HARNESS_CACHE": str(tmp_path / "cache"),
        # The archive has no 6.6, which needs no mirror to know.
        "HARNESS_DEBIAN_MIRROR": "http://127.0.0.1:9/debian",
        "HARNESS_DEBIAN_SECURITY_MIRROR": "http://127.0.0.1:9/debian",
    }
    result = inner.run("-rA", "--kernel=6.6", "--kernel=alma9", "--kernel=./x.deb", env=environment)
    assert result.status == 0, result.out
    for name in ("6.6", "alma9", "x.deb"):
        assert result.outcomes("test_it_runs", name) == ["PASSED"]
    assert f"snapshot {repackaged.release}=6.6.15-1 (sid 20240301T031500Z)" in result.out
