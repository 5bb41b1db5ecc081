"""What the command line takes away from a guest is not there, and no contract fails for it (configuration trials)."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.contracts import trials
from harness.testing import Bpf, Guest, Kernel

TAKEN = [
    "harness.without=bpf,tracefs",
    "harness.hide=/proc/sys,/proc/meminfo",
    "harness.set=/proc/sys/user/max_user_namespaces:0",
    "harness.drop=12",
]

CLONE_NEWUSER = 0x10000000
NET_ADMIN = 12


def look() -> dict[str, object]:
    """Return what a guest process finds of what was taken away."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    try:
        Path("/proc/meminfo").read_text()
        meminfo = 0
    except OSError as error:
        meminfo = error.errno or -1
    status = Path("/proc/self/status").read_text()
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    return {
        "mounts": [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()],
        "sysctl": [one.name for one in Path("/proc/sys").iterdir()],
        "meminfo": meminfo,
        "namespace": (libc.unshare(CLONE_NEWUSER), ctypes.get_errno()),
        "net_admin": bool(effective & 1 << NET_ADMIN),
        "others": effective.bit_count() > 10,
    }


@pytest.mark.vm(parameters=TAKEN)
def test_what_is_taken_away_is_missing(guest: Guest, bpf: Bpf) -> None:
    found = guest.call(look)
    assert not {"/sys/fs/bpf", "/sys/kernel/tracing"} & set(found["mounts"])  # type: ignore[call-overload]
    assert "/sys/kernel/debug" in found["mounts"]  # type: ignore[operator]
    assert (found["sysctl"], found["meminfo"]) == ([], 13)
    assert found["namespace"] == (-1, 28)  # ENOSPC
    assert (found["net_admin"], found["others"]) == (False, True)
    assert bpf.map("array").lookup(0) == 0


MODULES = ("harness.contracts.test_privileges", "harness.contracts.test_compiled")


@pytest.mark.parametrize("taken", [("proc_sys", "tracefs"), ("user_namespaces", "bpffs", "compiler")], ids="+".join)
def test_no_contract_fails_without_what_it_needs(
    kernel: Kernel, taken: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    selected = ["--kernel", kernel.label, "--share", "1000", "--again"]
    assert trials.main([*MODULES, *selected, "--only", *taken]) == 0, capsys.readouterr().err
    row = capsys.readouterr().out.splitlines()[1].split()
    asked, not_asked, failed = (int(word) for word in row[-3:])
    assert (asked > 0, not_asked > 0, failed) == (True, True, 0)
