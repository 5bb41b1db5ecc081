"""`harness doctor`: what it finds on machines that lack something, and what it says of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import needs
from harness.cli import doctor, main
from harness.doctor import checks
from harness.doctor.findings import Finding, Status, as_data, as_text
from harness.errors import HarnessError
from harness.util import cache
from harness.vm import accel, process
from harness.vm.spec import Accel, Acceleration
from tests.unit.kernel.kernel_fakes import serve

EVERY = [pytest.param(need, id=need.name.rpartition("/")[2]) for need in needs.table().needs if need.name != "python3"]

GOOD = Finding("qemu", Status.GOOD, "7.2, /usr/bin/qemu")
WRONG = Finding("clang", Status.WRONG, "not installed", "apt-get install it", ("objects", "contracts"))
UNKNOWN = Finding("memory", Status.UNKNOWN, "the check itself failed: ValueError: x", "report it")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with room, where nothing is booted."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(accel, "known_acceleration", lambda: Acceleration(Accel.TCG, "a test"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def found(name: str, *, online: bool = False) -> Finding:
    (check,) = [one for one in checks.checks(online=online) if one[0] == name]
    return checks._done(*check)


def program(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# what is said


def test_only_what_was_asked_for_stops_it() -> None:
    assert as_text([GOOD, WRONG], {"run"}) == [
        "✓ qemu   7.2, /usr/bin/qemu",
        "- clang  not installed (for objects, contracts): apt-get install it",
        "ready for run",
    ]
    assert as_text([GOOD, WRONG], {"run", "objects"})[1:] == [
        "✗ clang  not installed: apt-get install it",
        "not ready for objects, run: clang",
    ]


def test_a_check_that_fails_is_a_bad_finding() -> None:
    assert as_text([UNKNOWN], {"run"}, marks="+!-") == [
        "! memory  the check itself failed: ValueError: x: report it",
        "not ready for run: memory",
    ]


def test_the_shape_of_json() -> None:
    assert as_data([WRONG], {"run"}) == {
        "format": 1,
        "asked": ["run"],
        "ready": True,
        "findings": [
            {
                "name": "clang",
                "status": "wrong",
                "what": "not installed",
                "mend": "apt-get install it",
                "features": ["objects", "contracts"],
                "stops": False,
            }
        ],
    }


def answers(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    monkeypatch.setattr(checks, "examine", lambda *, online: list(findings))


@pytest.mark.parametrize(
    ("words", "findings", "status"),
    [
        ((), (GOOD, WRONG), 0),
        (("--for", "objects"), (GOOD, WRONG), 3),
        ((), (GOOD, UNKNOWN), 3),
        (("--json",), (UNKNOWN,), 3),
    ],
)
def test_the_exit_status(
    words: tuple[str, ...], findings: tuple[Finding, ...], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, *findings)
    assert main(["doctor", *words]) == status


def test_json_alone_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answers(monkeypatch, GOOD, WRONG)
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == as_data([GOOD, WRONG], doctor.A_RUN)


def test_it_works_without_what_draws_other_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, GOOD, WRONG)
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("ready for debian, run\n")


def test_an_unknown_feature_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--for", "everything"])
    assert re.search(r"choose from .*\bcontracts\b", capsys.readouterr().err)


@pytest.mark.parametrize(("encoding", "can"), [("utf-8", True), ("ascii", False), (None, False)])
def test_marks_that_a_terminal_cannot_print_are_not_printed(encoding: str | None, can: bool) -> None:
    assert doctor.can_print("✓✗", encoding) is can


# what is looked at


@pytest.mark.parametrize("need", EVERY)
def test_each_entry_of_the_table_is_missed(need: needs.Need, take_away: Callable[[str], None]) -> None:
    take_away(need.name)
    finding = found(checks.short_name(need))
    assert finding.status is Status.WRONG
    assert finding.mend.startswith(need.install)
    assert "not installed; it is needed to" in finding.what
    assert finding.features == need.features


def test_for_a_plain_user_the_command_has_sudo(
    monkeypatch: pytest.MonkeyPatch, take_away: Callable[[str], None]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    take_away("gpgv")
    assert found("gpgv").mend == "sudo apt-get install gpgv"


def test_an_old_clang_is_a_bad_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clang = program(tmp_path, "clang", "echo clang version 9.0.1")
    monkeypatch.setenv("HARNESS_CLANG", str(clang))
    assert found("clang").what == f"{clang} has version 9.0.1; 10 or later is needed"
    program(tmp_path, "clang", "echo clang version 10.0.0")
    assert found("clang").status is Status.GOOD


def test_a_check_that_raises_is_reported_and_the_others_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Finding:
        raise ZeroDivisionError("at last")

    monkeypatch.setattr(checks, "memory", broken)
    findings = checks.examine()
    assert findings[-1].status is Status.UNKNOWN
    assert findings[-1].what == "the check itself failed: ZeroDivisionError: at last"
    assert len(findings) > len(needs.table().needs)


QEMU = """case "$*" in
*machine*) echo 'q35  Standard PC' ;;
*device*) echo 'name "{device}", bus PCI' ;;
*) echo 'QEMU emulator version 7.2.9 (Debian)' ;;
esac"""


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (QEMU.format(device="ivshmem-plain"), "7.2.9, {path}; has q35 and ivshmem-plain"),
        (QEMU.format(device="e1000"), "7.2.9, {path}, was built without the device ivshmem-plain"),
        (QEMU.format(device="ivshmem-plain").replace("q35", "pc"), "7.2.9, {path}, was built without the machine q35"),
        ("echo lost library; exit 127", "{path} ends with status 127: lost library"),
    ],
)
def test_qemu_is_asked_what_it_has(text: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path / "bin", "qemu-system-x86_64", text)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    finding = found("qemu-system-x86_64")
    assert finding.what == what.format(path=path)
    assert (finding.status is Status.GOOD) == ("; has" in what)


def test_qemu_of_another_architecture_needs_what_its_guests_have_and_concerns_them_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = QEMU.format(device="virtio-serial-ccw").replace("q35", "s390-ccw-virtio")
    path = program(tmp_path / "bin", "qemu-system-s390x", text)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    finding = found("qemu-system-s390x")
    assert (finding.status, finding.what) == (Status.GOOD, f"7.2.9, {path}; has s390-ccw-virtio")
    program(tmp_path / "bin", "qemu-system-s390x", "echo lost library; exit 127")
    finding = found("qemu-system-s390x")
    assert (finding.stops(["run"]), finding.stops(["s390x"])) == (False, True)


def test_vng_is_asked_for_every_option_that_a_boot_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("vng").status is Status.GOOD
    real = process.find_vng()
    path = program(tmp_path, "vng", f"{real} \"$@\" | sed 's/--disable-monitor//'")
    monkeypatch.setattr(process, "find_vng", lambda: path)
    finding = found("vng")
    assert finding.status is Status.WRONG
    assert finding.what.endswith("does not know --disable-monitor")
    assert "pip install --upgrade virtme-ng" in finding.mend
    program(tmp_path, "vng", "echo no module; exit 1")
    assert found("vng").what == f"{path} ends with status 1: no module"


def test_python_packages_are_compared_with_what_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["pytest>=8", "pytest>=99,<100", "no-such-package>=1", "hypothesis>=999; extra == 'test'"]
    assert found("python packages").status is Status.GOOD
    monkeypatch.setattr(metadata, "requires", lambda name: declared)
    pytest_version = metadata.version("pytest")
    assert found("python packages").what == (
        f"pytest is {pytest_version}, not <100,>=99; no-such-package is not installed"
    )


def test_kvm_is_not_believed_before_a_kernel_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("accelerator").what == "tcg (a test)"
    monkeypatch.setattr(accel, "known_acceleration", lambda: None)
    assert found("accelerator").what == "/dev/kvm opens; the first boot will show whether it works"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "served").mkdir()
    (tmp_path / "keys.gpg").touch()
    with serve(tmp_path / "served") as server:
        for variable in ("HARNESS_DEBIAN_MIRROR", "HARNESS_DEBIAN_SECURITY_MIRROR"):
            monkeypatch.setenv(variable, server.url)
        monkeypatch.setenv("HARNESS_DEBIAN_KEYRING", str(tmp_path / "keys.gpg"))
        yield SimpleNamespace(url=server.url, folder=tmp_path / "served")


def test_package_sources_are_asked_only_with_online(mirror: Any) -> None:
    assert found("package sources").what.endswith("--online also checks that they answer")
    finding = found("package sources", online=True)
    assert finding.status is Status.WRONG
    assert finding.what.startswith(f"{mirror.url} has none of bullseye")
    for suite in ("bookworm", "bookworm-security"):
        (mirror.folder / "dists" / suite).mkdir(parents=True)
        (mirror.folder / "dists" / suite / "InRelease").write_text("signed")
    assert found("package sources", online=True).what.endswith("they answer")


def test_sources_without_keys_are_no_use(mirror: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_DEBIAN_KEYRING", "/nowhere.gpg")
    finding = found("package sources")
    assert finding.what.startswith("the keyring /nowhere.gpg is missing")
    assert finding.features == ("debian",)


def test_a_cache_that_is_full_or_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("cache folder").status is Status.GOOD
    with monkeypatch.context() as context:
        context.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100 << 20))
        assert found("cache folder").what == f"{tmp_path}/cache has 100 MiB free; a first run needs 1024"
    with monkeypatch.context() as context:
        context.setattr(os, "access", lambda path, mode: False)
        assert found("cache folder").what == f"{tmp_path}/cache cannot be written"
    (tmp_path / "cache").touch()
    assert "cannot be written" in found("cache folder").what


def test_no_temporary_file_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    finding = found("temporary folder")
    assert finding.what.startswith("no temporary file can be made")
    assert finding.mend == "set TMPDIR to a folder"


def test_a_run_folder_of_another_user_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> Path:
        raise HarnessError("it is not yours", hint="remove it")

    monkeypatch.setattr(cache, "runs_root", refused)
    assert found("run folder") == Finding("run folder", Status.WRONG, "it is not yours", "remove it")


def test_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("memory").status is Status.GOOD
    monkeypatch.setattr(checks, "LEAST_MEMORY", 1 << 40)
    assert found("memory").status is Status.WRONG
