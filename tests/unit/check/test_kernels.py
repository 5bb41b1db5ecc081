"""An object on kernels of several architectures: what is compiled, and what this machine refuses before any boot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.check.kernels import prepare
from harness.check.plan import Loader, Plan
from harness.check.results import Kind, Result, Verdict
from harness.cli import main
from harness.errors import UsageError
from harness.kernel.types import Choice
from harness.kernel.version import KernelVersion
from harness.util import architecture, clang
from tests.needs import needs_program

needs_program("clang")

SOURCE = """
#include "harness.h"
SEC("socket") int p(void *ctx) { return 1; }
char LICENSE[] SEC("license") = "GPL";
"""
OWN_REGISTERS = """
#ifndef __TARGET_ARCH_arm64
#error no registers
#endif
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "x.bpf.c"
    path.write_text(SOURCE)
    return path


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Selectors of architectures alone name a kernel that can never be run."""

    def resolve(selectors: list[str], *, progress: object) -> list[Choice]:
        del progress
        version = KernelVersion.parse("6.12.1")
        names = [text.partition(":")[2] or "amd64" for text in selectors]
        return [
            Choice("6.12" if name == "amd64" else f"6.12-{name}", version, "none", "none", architecture=name)
            for name in names
        ]

    def started(*_: object) -> None:
        raise AssertionError("a machine was made")

    monkeypatch.setattr("harness.kernel.resolve", resolve)
    monkeypatch.setattr("harness.check.kernels.PoolMachines", started)


def object_for(source: Path, name: str) -> Path:
    return clang.build(source, wanted=architecture.require(name))


def test_a_source_is_compiled_for_each_architecture(source: Path) -> None:
    tries = [prepare(Plan(source), architecture.require(name)) for name in ("amd64", "arm64", "s390x")]
    assert [one.file.byte_order for one in tries] == ["little", "little", "big"]
    assert {one.plan.name for one in tries} == {"x.bpf.o"}
    assert {one.mismatch for one in tries} == {""}


def test_a_source_that_one_architecture_refuses_is_refused_with_its_name(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.write_text(OWN_REGISTERS + SOURCE)
    assert prepare(Plan(source), architecture.require("arm64")).file.programs == ("socket",)
    assert main(["check", str(source), "--kernel", "6.12:arm64", "--kernel", "6.12:s390x"]) == 2
    assert "x.bpf.c does not compile for s390x" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("made_for", "selectors", "labels"),
    [("s390x", ["6.12", "6.12:arm64"], "6.12, 6.12-arm64"), ("arm64", ["6.12:s390x"], "6.12-s390x")],
)
def test_an_object_of_the_other_byte_order_for_all_kernels_is_bad_input(
    source: Path, capsys: pytest.CaptureFixture[str], made_for: str, selectors: list[str], labels: str
) -> None:
    path = object_for(source, made_for)
    assert main(["check", str(path), *(f"--kernel={text}" for text in selectors)]) == 2
    order, other = ("big", "little") if made_for == "s390x" else ("little", "big")
    said = capsys.readouterr().err
    assert f"is a {order}-endian object, and no kernel of {labels} is" in said
    assert f"expected: a {other}-endian object" in said
    assert f"compile it with -target {'bpfel' if other == 'little' else 'bpfeb'}, or give the C source" in said


def test_a_csv_for_veristat_of_several_kernels_is_refused_before_any_boots(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(source), "--kernel=6.12", "--kernel=6.12:s390x", "--format=veristat"]) == 2
    assert "about one kernel, not 2: 6.12, 6.12-s390x" in capsys.readouterr().err


def test_an_object_of_the_other_byte_order_for_one_kernel_is_a_row(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.check.trials.Trials", _AllIsGood)
    monkeypatch.setattr("harness.check.kernels.PoolMachines", lambda *_: None)
    path = object_for(source, "arm64")
    assert main(["check", str(path), "--kernel=6.12:arm64", "--kernel=6.12:s390x", "--format=json"]) == 1
    good, row = json.loads(capsys.readouterr().out)
    assert (good["kernel"], good["verdict"]) == ("6.12-arm64", "ok")
    assert (row["kernel"], row["kind"], row["verdict"], row["author"]) == ("6.12-s390x", "object", "refused", "harness")
    assert row["line"] == "the object is little-endian, and s390x big"
    assert row["hint"] == "compile it with -target bpfeb, or give the C source"


class _AllIsGood:
    """Trials of an object that every kernel takes."""

    def __init__(self, machines: object, plan: Plan, file: object, label: str) -> None:
        del machines, file
        self._row = Result(label, plan.name, plan.name, Kind.OBJECT, Verdict.OK, "load")

    def all(self) -> list[Result]:
        return [self._row]


def test_a_loader_of_another_architecture_is_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    for loader in ("/bin/true", script):
        assert main(["check", str(source), "--kernel=6.12:s390x", f"--run-loader={loader}"]) == 2
        said = f"the loader {loader} cannot run on 6.12-s390x: the loader is for x86-64, and the guest is s390x"
        assert said in capsys.readouterr().err


def test_a_loader_in_python_runs_on_every_architecture(source: Path, tmp_path: Path) -> None:
    (tmp_path / "loader.py").write_text("")
    plan = Plan(source, loader=Loader((str(tmp_path / "loader.py"),)))
    assert {prepare(plan, architecture.require(name)).loader_mismatch for name in ("amd64", "s390x")} == {""}


def test_bad_input_names_what_is_wrong_with_a_loader(source: Path, tmp_path: Path) -> None:
    data = bytearray(Path("/bin/true").read_bytes())
    data[18:20] = (8).to_bytes(2, "little")
    (tmp_path / "mips").write_bytes(data)
    with pytest.raises(UsageError, match="it is a program for EM_MIPS"):
        prepare(Plan(source, loader=Loader((str(tmp_path / "mips"),))), architecture.own())
