"""What is judged of an object before anything boots."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.check.kernels import prepare
from harness.check.object_file import initial_values, read_object
from harness.check.plan import Plan, Variable
from harness.cli import main
from harness.errors import UsageError
from harness.util import architecture, clang
from harness.util.proc import run
from tests.needs import needs_program

needs_program("clang")

SOURCE = """
#include "harness.h"
const volatile __u32 limit = 1;
volatile char name[16];
SEC("socket") int p(void *ctx) { return limit + name[0]; }
char LICENSE[] SEC("license") = "GPL";
"""


def build(folder: Path, text: str, *flags: str) -> Path:
    (folder / "x.bpf.c").write_text(text)
    return clang.build(folder / "x.bpf.c", flags=flags)


def test_the_programs_and_variables_of_an_object(tmp_path: Path) -> None:
    path = build(tmp_path, SOURCE)
    found = read_object(path)
    assert found.programs == ("socket",)
    values = (Variable("limit", 7), Variable("name", "lo"))
    assert initial_values(found, Plan(path, variables=values)) == [
        (".rodata", 0, b"\7\0\0\0"),
        (".bss", 0, b"lo".ljust(16, b"\0")),
    ]
    with pytest.raises(UsageError, match="no global variable 'other'") as caught:
        initial_values(found, Plan(path, variables=(Variable("other", 1),)))
    assert caught.value.expected == "one of limit, name"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# readme", "it is not an ELF file"),
        (b"", "it is not an ELF file"),
        (b"\x7fELF\x02\x01\x01" + bytes(20), "is a damaged ELF file"),
    ],
)
def test_what_is_not_an_object_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_object(tmp_path / "x")


def test_programs_and_foreign_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is a program for x86_64"):
        read_object(Path("/bin/true"))
    with pytest.raises(UsageError, match="cannot be read"):
        read_object(tmp_path / "none")
    with pytest.raises(UsageError, match="neither programs nor maps nor variables"):
        read_object(build(tmp_path, "typedef int nothing;"))


def test_values_are_in_the_objects_byte_order(tmp_path: Path) -> None:
    build(tmp_path, SOURCE)
    plan = Plan(tmp_path / "x.bpf.c", variables=(Variable("limit", 7), Variable("name", "lo")))
    numbers = {}
    for name in ("amd64", "s390x"):
        one = prepare(plan, architecture.require(name))
        (_, _, numbers[one.file.byte_order]), (_, _, text) = initial_values(one.file, plan)
        assert text == b"lo".ljust(16, b"\0")
    assert numbers == {"little": b"\7\0\0\0", "big": b"\0\0\0\7"}


@pytest.mark.parametrize("text", ["const volatile int x = 7;", "int x = 7;", "int x;"])
def test_variables_alone_are_an_object(tmp_path: Path, text: str) -> None:
    """libbpf makes a map of them."""
    assert list(read_object(build(tmp_path, text)).variables) == ["x"]


def test_bitcode_is_called_so(tmp_path: Path) -> None:
    source, path = tmp_path / "x.c", tmp_path / "x.o"
    source.write_text("int p(void *ctx) { return 0; }")
    assert run(["clang", "-target", "bpf", "-flto", "-c", source, "-o", path], timeout=60).status == 0
    with pytest.raises(UsageError, match="it is LLVM's bitcode") as caught:
        read_object(path)
    assert "without -flto" in caught.value.hint


def test_bad_input_ends_the_command_before_anything_boots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: object, **__: object) -> None:
        raise AssertionError("a kernel was looked for")

    monkeypatch.setattr("harness.kernel.resolve", resolve)
    assert main(["check", "README.md"]) == 2
    assert "not an ELF file" in capsys.readouterr().err
    source = tmp_path / "x.bpf.c"
    source.write_text("int broken(")
    assert main(["check", str(source)]) == 2
    assert "does not compile" in capsys.readouterr().err
    source.write_text(SOURCE)
    assert main(["check", str(source), "--set-rodata", "limit=4294967296"]) == 2
    assert "does not fit" in capsys.readouterr().err
    assert main(["check", str(source), "--memory", "128"]) == 2
    assert "192 or more" in capsys.readouterr().err
    for loader, message in (("/no/such", "cannot be read"), ("README.md", "neither a compiled program nor a script")):
        assert main(["check", str(source), "--run-loader", loader]) == 2
        assert message in capsys.readouterr().err


def test_flags_reach_the_compiler(tmp_path: Path) -> None:
    text = '#include "harness.h"\n#include <own.h>\nSEC("socket") int p(void *ctx) { return OWN + WANTED; }\n'
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "own.h").write_text("#define OWN 1\n")
    with pytest.raises(UsageError, match="does not compile"):
        build(tmp_path, text)
    assert build(tmp_path, text, f"-I{tmp_path / 'include'}", "-DWANTED=2").exists()


def test_a_kprobes_registers_and_a_header_beside_the_source_are_found(tmp_path: Path) -> None:
    (tmp_path / "vmlinux.h").write_text("#ifdef __TARGET_ARCH_x86\n#define FINE 1\n#endif\n")
    assert build(tmp_path, "#include <vmlinux.h>\nint x = FINE;\n").exists()
