"""Compiling BPF programs: once for each content, and a clear error where it cannot be done."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import SourceError, ToolMissing, UsageError
from harness.util import architecture, clang

PROGRAM = """
#include "harness.h"
#include "own.h"
SEC("socket") int f(void *ctx) { return VALUE; }
char LICENSE[] SEC("license") = "Dual MIT/GPL";
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "own.h").write_text("#define VALUE 1\n")
    path = tmp_path / "program.bpf.c"
    path.write_text(PROGRAM)
    return path


REGISTERS = """
#include "harness.h"
#if !defined(__TARGET_ARCH_s390) || __BYTE_ORDER__ != __ORDER_BIG_ENDIAN__
#error not for s390x
#endif
SEC("socket") int f(void *ctx) { return VALUE; }
"""


def fake_clang(folder: Path, version: str) -> Path:
    path = folder / "clang"
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)
    return path


def test_an_object_is_compiled_once_until_a_header_changes(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = clang.build(source)
    assert first.name == "program.bpf.o"
    assert first.read_bytes()[:4] == b"\x7fELF"
    compiler = clang.find_compiler()
    with monkeypatch.context() as context:
        context.setattr(clang, "run", None)  # nothing is run for what is there
        assert clang.build(source, compiler=compiler) == first
    (source.parent / "own.h").write_text("#define VALUE 2\n")
    second = clang.build(source)
    assert second.read_bytes() != first.read_bytes()
    assert clang.build(source, defines=["EXTRA"]).parent == second.parent


def test_a_damaged_record_or_a_lost_object_is_made_again(source: Path, cache: Path) -> None:
    first = clang.build(source)
    first.unlink()
    assert clang.build(source).is_file()
    for record in (cache / "objects").glob("*.json"):
        record.write_text("{")
    assert clang.build(source).is_file()


def test_what_clang_says_is_in_the_error(source: Path, cache: Path) -> None:
    source.write_text("int f(void) { return missing_name; }\n")
    with pytest.raises(SourceError) as caught:
        clang.build(source)
    assert "program.bpf.c does not compile" in str(caught.value)
    assert "missing_name" in caught.value.detail
    assert list((cache / "objects").glob("**/*.o")) == []


def test_a_missing_or_old_clang_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CLANG", str(tmp_path / "none"))
    with pytest.raises(ToolMissing, match="apt-get install clang"):
        clang.find_compiler()
    monkeypatch.setenv("HARNESS_CLANG", str(fake_clang(tmp_path, "clang version 9.0.1")))
    with pytest.raises(ToolMissing, match=r"clang version 9\.0\.1[^|]*clang 10 or newer"):
        clang.find_compiler()
    monkeypatch.setenv("HARNESS_CLANG", str(fake_clang(tmp_path, "gcc (Debian) 12")))
    with pytest.raises(ToolMissing, match="gcc"):
        clang.find_compiler()


def test_a_source_is_a_path_or_a_name_in_bpf(source: Path) -> None:
    assert clang.find_source(source) == source
    assert clang.find_source("tracer").name == "tracer.bpf.c"
    with pytest.raises(UsageError, match="tracer"):
        clang.find_source("tracr")


def test_every_source_of_ours_compiles(capsys: pytest.CaptureFixture[str]) -> None:
    assert clang.main([]) == 0
    built = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert {path.name.removesuffix(".bpf.o") for path in built} == set(clang.own_sources())
    assert clang.main(["no-such-source"]) == 2


def test_an_object_is_compiled_again_for_a_guest_of_another_architecture(source: Path) -> None:
    source.write_text(PROGRAM.replace("VALUE", "NUMBER"))
    own = clang.build(source, defines=["NUMBER=3"])
    foreign = clang.for_architecture(own, architecture.require("s390x"))
    assert (own.read_bytes()[5], foreign.read_bytes()[5]) == (1, 2)
    assert clang.for_architecture(own, architecture.own()) == own
    assert clang.for_architecture(source, architecture.require("s390x")) == source  # it was not compiled here


def test_a_program_knows_the_architecture_that_it_is_compiled_for(source: Path) -> None:
    source.write_text(REGISTERS)
    assert clang.build(source, defines=["VALUE=1"], wanted=architecture.require("s390x")).is_file()
    with pytest.raises(SourceError, match="does not compile") as caught:
        clang.build(source, defines=["VALUE=1"], wanted=architecture.require("arm64"))
    assert "not for s390x" in str(caught.value)
