"""The `harness kernels` command, from its words to its output and exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from harness.cli import downloads, main
from harness.kernel import cache as kernel_cache
from harness.kernel import prune
from harness.kernel.types import Choice
from harness.kernel.version import KernelVersion
from harness.util import cache
from tests.needs import needs_features, needs_program
from tests.processes import has_ended, wait_until
from tests.unit.kernel.kernel_fakes import CONFIG, Archive, Server, kernel_image

RELEASES = {"6.1.0-50-cloud-amd64": "6.1.176-1", "6.1.0-51-cloud-amd64": "6.1.180-1", "6.12.9-amd64": "6.12.9-1"}


def package(release: str, revision: str) -> dict[str, bytes]:
    return {
        f"boot/vmlinuz-{release}": kernel_image(release, f"#1 SMP Debian {revision}"),
        f"boot/config-{release}": CONFIG.encode(),
        f"lib/modules/{release}/kernel/m.ko": b"module",
    }


@pytest.fixture
def mirror(archive: Archive) -> Archive:
    """The archive with two series."""
    for release, revision in RELEASES.items():
        archive.add("bookworm", f"linux-image-{release}", revision, package(release, revision), padding=150_000)
    archive.publish()
    return archive


def harness(*words: str) -> int:
    return main(["kernels", *words])


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip() and "─" not in line][1:]


def test_list_shows_each_series_once(mirror: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("fetch", "6.1") == 0
    capsys.readouterr()
    assert harness("list") == 0
    series, distributions = capsys.readouterr().out.split("\n\n")
    assert rows(series) == [
        ["6.1", "6.1.180", "2", "6.1.180", "debian", "cloud", "0", "MB"],
        ["6.12", "6.12.9", "1", "debian", "generic", "0", "MB"],
    ]
    assert ["alma9", "AlmaLinux", "9", "not", "tried"] in rows(distributions)


def test_list_says_why_a_provider_has_nothing(mirror: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("list", "6.6", "6.1", "-v") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "6.6 debian has no such kernel" in out
    assert "6.6 snapshot http://127.0.0.1:9/mr/package/linux/ could not be fetched" in out
    assert "6.6 source http://127.0.0.1:9/v6.x/sha256sums.asc could not be fetched" in out
    assert "6.1 debian 6.1.180 cloud" in out
    mirror.add("bookworm", "linux-source-6.1", "6.1.180-1", {})
    mirror.publish()
    assert harness("list", "6.1", "--refresh") == harness("list", "6.1", ">=6.1", "-v") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "6.1 source linux-source-6.1 6.1.180-1: `harness kernels build 6.1` makes it" in out
    assert ">=6.1 source builds a series or a release, and this is neither" in out
    assert harness("list", "-v") == 2
    assert "-v explains a selector" in capsys.readouterr().err


def test_list_of_a_selector_shows_each_release(mirror: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("list", "6.1") == 0
    assert [row[:4] for row in rows(capsys.readouterr().out)] == [
        ["6.1.176", "cloud", "debian", "6.1.0-50-cloud-amd64"],
        ["6.1.180", "cloud", "debian", "6.1.0-51-cloud-amd64"],
    ]


def test_list_as_json(mirror: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("list", "--json", "--flavour", "generic") == 0
    [one] = json.loads(capsys.readouterr().out)
    assert one["release"] == "6.12.9"
    assert one["package"] == "6.12.9-1"
    assert one["uname"] == "6.12.9-amd64"
    assert one["cached"] is False
    assert one["size"] > 150_000


def test_list_without_the_mirror_says_so_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("list") == 3
    assert "keyring" in capsys.readouterr().err


def test_fetch_brings_several_and_prints_where_they_are(mirror: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("fetch", "-j", "2", "all") == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["6.1", "6.12"]
    assert all(Path(line.rpartition(" -> ")[2]).is_file() for line in lines)
    assert "6.1: 6.1.180 cloud (debian 6.1.0-51-cloud-amd64=6.1.180-1)" in captured.err


def test_a_failed_fetch_is_one_message_and_keeps_what_succeeded(
    mirror: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    path = mirror.root / "pool/linux-image-6.12.9-amd64_6.12.9-1_amd64.deb"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert harness("fetch", "-j", "1", "all") == 3
    error = capsys.readouterr().err
    assert error.count("harness: error:") == 1
    assert "next step:" in error
    assert [path.name for path in (kernel_cache.folder() / "store").iterdir()] == [
        "debian-6.1.0-51-cloud-amd64=6.1.180-1"
    ]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["fetch", ""], 2, "is empty"),
        (["fetch", "6"], 2, "ambiguous"),
        (["fetch", "bogus"], 2, "not a kernel selector"),
        (["fetch", "9.9"], 2, "no kernel matches"),
        (["info", "/nowhere/bzImage"], 2, "does not exist"),
        (["build"], 2, "not clear what to build"),
        (["build", "6.1", "6.2"], 2, "not clear what to build"),
        (["build", "6.1", "--source", "x"], 2, "not clear what to build"),
        (["build", "6.1", "--ref", "v6.1"], 2, "it is not clear what to build"),
        (["build", "--source", "https://127.0.0.1:9/linux.git"], 2, "has many kernels"),
        (["build", "--source", "http://127.0.0.1:9/linux.git", "--ref", "v6.1"], 3, "v6.1 cannot be fetched from"),
        (["build", "--source", "/nowhere"], 2, "does not exist"),
        (["build", "6.x"], 3, "is unavailable"),
        (["lock", "@nothing.lock"], 2, "cannot be read"),
    ],
)
def test_bad_words_are_one_clear_error(
    mirror: Archive, capsys: pytest.CaptureFixture[str], words: list[str], status: int, message: str
) -> None:
    assert harness(*words) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("harness: error:") == 1
    assert "Traceback" not in error


def test_info_describes_and_verifies(mirror: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("info", "6.1") == 0
    assert "cached: no" in capsys.readouterr().out
    harness("fetch", "6.1")
    capsys.readouterr()
    assert harness("info", "--json", "--verify", "6.1") == 0
    [facts] = json.loads(capsys.readouterr().out)
    assert facts["state"] == "verified"
    assert facts["uname -r"] == "6.1.0-51-cloud-amd64"
    next(Path(facts["cached"]).rglob("m.ko")).write_bytes(b"other")
    assert harness("info", "6.1") == 0
    assert harness("info", "--verify", "6.1") == 3
    assert "damaged: its modules differ" in capsys.readouterr().out


def test_info_finds_what_the_cache_holds_of_a_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(kernel_image("6.1.7-mine"))
    for cached, verb in (("no", "fetch"), (str(kernel_cache.folder() / "store" / "local-bzImage-"), "info")):
        assert harness("info", "--json", str(image)) == 0
        [facts] = json.loads(capsys.readouterr().out)
        assert facts["cached"].startswith(cached)
        assert harness(verb, str(image)) == 0
        capsys.readouterr()
    assert facts["origin"] == f"file {image}"


def test_lock_and_use(
    mirror: Archive, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert harness("lock", "all") == 0
    assert "pytest --kernel=@lock" in capsys.readouterr().out
    locked = json.loads((tmp_path / "kernels.lock").read_text())["kernels"]
    assert [one["version"] for one in locked] == ["6.1.180", "6.12.9"]
    assert all(len(one["sha256"]) == 64 for one in locked)
    assert [list(one["packages"]) for one in locked] == [
        ["linux-image-6.1.0-51-cloud-amd64_6.1.180-1_amd64.deb"],
        ["linux-image-6.12.9-amd64_6.12.9-1_amd64.deb"],
    ]
    assert harness("fetch", "@lock") == 0
    image = tmp_path / "bzImage"
    image.write_bytes(kernel_image())
    assert harness("lock", str(image)) == 2
    assert len(json.loads((tmp_path / "kernels.lock").read_text())["kernels"]) == 2


def entry(version: str, *, age_days: float = 0) -> Path:
    with kernel_cache.new_entry("debian", version) as made:
        assert made is not None
        (made / "vmlinuz").write_bytes(kernel_image(f"{version}-x"))
        choice = Choice(version, KernelVersion.parse(version), "debian", version, "cloud")
        kernel_cache.seal(made, choice, origin="test")
    path = kernel_cache.entry_folder("debian", version)
    then = time.time() - age_days * prune.DAY
    os.utime(path / kernel_cache.RECORD, (then, then))
    return path


def left() -> list[str]:
    return sorted(one.record["key"] for one in kernel_cache.entries())


def test_prune_removes_leftovers_and_replaced_releases_and_reports_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    entry("6.1.1")
    entry("6.1.2")
    entry("6.12.1", age_days=40)
    downloads = kernel_cache.folder() / "downloads"
    downloads.mkdir()
    (downloads / "x.deb.part").write_bytes(bytes(100_000))
    half = kernel_cache.folder() / "store" / f"{cache.TEMPORARY}x01234567-debian-x"
    half.mkdir()
    half.with_name(f"{half.name}.held").touch()
    (kernel_cache.folder() / "store/debian-broken").mkdir()
    assert harness("prune", "--dry-run") == 0
    dry = capsys.readouterr().out
    assert dry.count("would remove") == 4
    assert left() == ["6.1.1", "6.1.2", "6.12.1"]
    assert harness("prune") == 0
    assert capsys.readouterr().out.count("removing") == 4
    assert left() == ["6.1.2", "6.12.1"]
    assert list(downloads.glob("*.part")) == []
    assert not half.exists()
    assert harness("prune", "--unused", "30") == 0
    assert left() == ["6.1.2"]
    assert harness("prune", "--all") == 0
    assert left() == []
    assert "all of it" in capsys.readouterr().out


def test_prune_removes_saved_machines_and_images_that_were_not_used_for_a_day(
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = cache.cache_root()
    kept = [root / "templates/00aa", root / "images/00aa.cpio", root / "images/11bb.json", root / "templates/11bb.lock"]
    gone = [root / "templates/11bb", root / "images/11bb.cpio", root / "rootfs/11bb.ext4"]
    then = time.time() - 2 * prune.DAY
    for path in (*kept, *gone):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if path.suffix == "" else path.write_bytes(bytes(1_000_000))
        age = then if "11bb" in path.name else time.time()
        os.utime(path, (age, age))
    assert harness("prune", "--unused", "3") == 0
    assert "removing" not in capsys.readouterr().out
    with cache.locked(root / "templates/11bb.lock"):
        assert harness("prune", "-n") == 0
        assert capsys.readouterr().out.count("would remove") == 2
    assert harness("prune") == 0
    assert "not used for 2 days; made again when needed" in capsys.readouterr().out
    assert [path.exists() for path in gone] == [False] * 3
    assert [path.exists() for path in kept[:3]] == [True] * 3
    assert harness("prune", "--all") == 0
    assert not kept[0].exists()
    assert not kept[1].exists()


def test_prune_leaves_alone_what_is_at_work(capsys: pytest.CaptureFixture[str]) -> None:
    downloads = kernel_cache.folder() / "downloads"
    downloads.mkdir(parents=True)
    (downloads / "x.deb.part").write_bytes(b"")
    with (
        cache.new_folder(kernel_cache.folder() / "store" / "debian-y") as mine,
        cache.locked(downloads / "x.deb.lock"),
    ):
        # flock is by open file, so this process can play another one.
        assert harness("prune") == 0
        assert "removing" not in capsys.readouterr().out
        assert mine.exists()
    assert harness("prune") == 0
    assert "x.deb.part" in capsys.readouterr().out


def test_using_a_kernel_counts_as_use() -> None:
    path = entry("6.1.1", age_days=40)
    assert (
        kernel_cache.load(Choice("6.1", KernelVersion(6, 1, 1), "debian", "6.1.1", "cloud"), progress=print) is not None
    )
    assert time.time() - (path / kernel_cache.RECORD).stat().st_mtime < 3600


def test_a_full_disk_is_one_clear_error_on_a_real_one(mirror: Archive, tmp_path: Path) -> None:
    needs_program("unshare", "util-linux")
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode != 0:
        pytest.skip("no mount namespace can be made here; the test by injection in test_shelf.py stands")
    disk = tmp_path / "disk"
    disk.mkdir()
    program = "import sys; from harness.cli import main; sys.exit(main(['kernels', 'fetch', '6.1']))"
    script = (
        f'mount -t tmpfs -o size=120k tmpfs {disk} && {sys.executable} -c "$0"; status=$?; '
        f"find {disk} -name '.tmp-*'; exit $status"
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, program],
        env=os.environ | {"HARNESS_CACHE": str(disk), "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


COMMAND = [sys.executable, "-c", "import sys; from harness.cli import main; sys.exit(main())", "kernels"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_fetch_ends_at_once_and_continues_later(
    mirror: Archive, server: Server, number: signal.Signals, status: int
) -> None:
    assert harness("list") == 0
    path = "/debian/pool/linux-image-6.1.0-51-cloud-amd64_6.1.180-1_amd64.deb"
    server.stall[path] = 100_000
    with subprocess.Popen([*COMMAND, "fetch", "6.1"], stderr=subprocess.PIPE, text=True) as process:
        partial = kernel_cache.folder() / "downloads" / f"{Path(path).name}.part"
        wait_until(lambda: partial.exists() and partial.stat().st_size > 0)
        process.send_signal(number)
        # The server sends on: the next piece is where the download notices.
        server.stall.clear()
        assert process.stderr is not None
        error = process.stderr.read()
    assert process.returncode == status, error
    assert "Traceback" not in error
    assert list((kernel_cache.folder() / "store").glob("*")) == []
    assert harness("fetch", "6.1") == 0


def test_an_interrupt_reaches_downloads_side_by_side() -> None:
    stop = threading.Event()
    ended: list[str] = []

    def job(name: str, first: Callable[[], None]) -> None:
        first()
        assert stop.wait(30)
        ended.append(name)

    jobs = [partial(job, "a", lambda: None), partial(job, "b", lambda: os.kill(os.getpid(), signal.SIGINT))]
    with pytest.raises(KeyboardInterrupt):
        downloads.parallel([*jobs, partial(ended.append, "never started")], 2, stop)
    # An interrupt in the middle of starting a thread leaves that one to end by itself.
    wait_until(lambda: sorted(ended) == ["a", "b"])


def test_a_terminated_build_leaves_no_process(tmp_path: Path) -> None:
    needs_features("build", "build-bcc", programs_only=True)
    tree = tmp_path / "linux"
    (tree / "scripts").mkdir(parents=True)
    (tree / "kernel/bpf").mkdir(parents=True)
    (tree / "scripts/Makefile.lib").touch()
    (tree / "Kconfig").touch()
    (tree / "Makefile").write_text(
        f"VERSION = 6\nPATCHLEVEL = 1\ntinyconfig:\n\tsh -c 'echo $$$$ > {tmp_path}/pid; sleep 1000; true'\n"
    )
    with subprocess.Popen([*COMMAND, "build", "--source", str(tree)], stderr=subprocess.PIPE, text=True) as process:
        pid_file = tmp_path / "pid"
        wait_until(lambda: pid_file.exists() and pid_file.read_text().strip() != "")
        process.terminate()
        assert process.stderr is not None
        error = process.stderr.read()
    assert process.returncode == 143, error
    # It is killed by then; on a busy machine the kernel may take a moment to let go of it.
    wait_until(lambda: has_ended(int(pid_file.read_text())))
    assert list((kernel_cache.folder() / "store").glob("*")) == []


def test_the_command_as_installed(mirror: Archive) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from harness.cli import main; sys.exit(main())",
            "-v",
            "kernels",
            "list",
            "--json",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(json.loads(done.stdout)) == 3


@pytest.mark.parametrize(
    ("words", "unbuffered"),
    [(["kernels", "list", "--json"], ""), (["kernels", "list", "--json"], "1"), (["--help"], "")],
)
def test_a_pipe_that_closes_early_gives_no_traceback(mirror: Archive, words: list[str], unbuffered: str) -> None:
    program = f"import sys; from harness.cli import main; sys.exit(main({words}))"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        error = process.stderr.read()
    assert "Traceback" not in error
    assert "Exception" not in error
    assert process.returncode == 141
