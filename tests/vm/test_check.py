"""`harness check`: a user's object on kernels, as a matrix."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.check.objects import Plan, Template, check
from harness.check.table import Verdict
from harness.cli import main
from harness.kernel.types import Choice
from harness.remote.libbpf import Libbpf
from harness.vm.machine import Machine

Build = Callable[..., Path]

# The objects here use what came up to that version: names and ids of maps, raw tracepoints, batches, read-only data.
pytestmark = pytest.mark.kernel(">=5.10")

SOURCE = """
#include "harness.h"
struct inner { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, __u32); };
struct {
    __uint(type, BPF_MAP_TYPE_HASH_OF_MAPS); __uint(max_entries, 4); __type(key, __u32); __array(values, struct inner);
} outer SEC(".maps");
SEC("socket") int forgets_the_check(void *ctx)
{
    __u32 key = 0;
    return bpf_map_lookup_elem(bpf_map_lookup_elem(&outer, &key), &key) != 0;
}
SEC("raw_tp/sys_enter") int fine(void *ctx) { return 0; }
char LICENSE[] SEC("license") = "Dual MIT/GPL";
"""


@pytest.fixture
def path(tmp_path: Path, bpf_object: Build) -> Path:
    (tmp_path / "mine.bpf.c").write_text(SOURCE)
    return bpf_object(tmp_path / "mine.bpf.c")


def test_each_program_is_tried_by_itself(vm: Machine, path: Path) -> None:
    refused, fine = check(vm, Plan(path, attach=True), "here")
    assert (refused.program, refused.verdict, refused.cell) == ("forgets_the_check", Verdict.REFUSED, "EACCES")
    assert (fine.program, fine.verdict, fine.step) == ("fine", Verdict.OK, "attach")
    assert "or_null" in refused.message


def test_an_outer_map_without_a_template_is_given_one(vm: Machine, bpf_object: Build) -> None:
    tracer = bpf_object("tracer")
    (without,) = check(vm, Plan(tracer), "here")
    assert without.cell == "EINVAL"
    (with_one,) = check(vm, Plan(tracer, (Template("traced", "hash", 4, 4, 8),)), "here")
    assert with_one.verdict is Verdict.OK


def test_a_loader_of_the_users_runs_beside_the_object(vm: Machine, path: Path, tmp_path: Path) -> None:
    script = tmp_path / "loader.py"
    script.write_text("import sys; data = open(sys.argv[1], 'rb').read(4); print(data); sys.exit(data != b'\\x7fELF')")
    *_, ran = check(vm, Plan(path, programs=("fine",), command=(str(script),)), "here")
    assert (ran.program, ran.verdict) == ("loader.py", Verdict.OK)
    *_, ran = check(vm, Plan(path, programs=("fine",), command=(str(script), "/proc/version", "{object}")), "here")
    assert (ran.verdict, ran.message.splitlines()[-1]) == (Verdict.FAILED, "exit status 1")


def test_the_command_prints_a_matrix_and_ends_with_a_status(
    path: Path, tmp_path: Path, kernel_choice: Choice, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel = kernel_choice.label
    assert main(["check", str(path), "--kernel", kernel, "--format", "json"]) == 1
    records = json.loads(capsys.readouterr().out)
    assert [(record["program"], record["verdict"]) for record in records] == [
        ("forgets_the_check", "refused"),
        ("fine", "ok"),
    ]
    assert "expected=map_ptr" in records[0]["line"]
    assert main(["check", str(path), "--kernel", kernel, "--program", "fine"]) == 0
    assert main(["check", str(path), "--kernel", kernel, "--program", "none"]) == 2
    assert "forgets_the_check, fine" in capsys.readouterr().err
    assert main(["check", "no-such-file.o", "--kernel", kernel]) == 2
    source = tmp_path / "mine.bpf.c"
    source.write_text(SOURCE)
    assert main(["check", str(source), "--kernel", kernel, "--program", "fine", "--attach"]) == 0
    source.write_text("int broken(")
    assert main(["check", str(source), "--kernel", kernel]) == 3
    assert "does not compile" in capsys.readouterr().err


def test_the_image_holds_libbpf(libbpf: Libbpf) -> None:
    assert libbpf.version.startswith("v1.")
