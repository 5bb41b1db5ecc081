"""Lines of sources are read from a program that this machine's compiler made, as it would make a vmlinux."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from harness.errors import KernelFileError
from harness.kernel.files.addr2line import Lines, with_lines
from tests.needs import needs_program

ONE = """int volatile seen;

static __attribute__((noinline)) int twin(int n)
{
    seen = n;
    return n * 3;
}

__attribute__((noinline)) int first(int n)
{
    seen = 1;
    seen = 2;
    return twin(n) + 1;
}
"""
OTHER = """int volatile other;
int first(int);

static __attribute__((noinline)) int twin(int n)
{
    for (int i = 0; i < 7; i++)
        other += n * i * other + first(i) + first(n) * first(i * n) + other;
    return other;
}

int _start(int n)
{
    return twin(n) + first(n);
}
"""


def build(folder: Path, *options: str) -> Path:
    needs_program("gcc")
    (folder / "net").mkdir(parents=True, exist_ok=True)
    (folder / "net" / "one.c").write_text(ONE)
    (folder / "other.c").write_text(OTHER)
    for name in ("net/one", "other"):
        command = [
            "gcc",
            "-O1",
            "-ffreestanding",
            "-fcf-protection=none",
            *options,
            "-c",
            f"{name}.c",
            "-o",
            f"{name}.o",
        ]
        subprocess.run(command, cwd=folder, check=True)
    link = ["gcc", "-nostdlib", "-static", "-Wl,--build-id", "net/one.o", "other.o", "-o", "vmlinux"]
    subprocess.run(link, cwd=folder, check=True)
    return folder / "vmlinux"


def place(path: Path, function: str, text: bytes = b"", *, number: int = 0) -> str:
    """Return where in a function the instructions `text` are, as a kernel prints it."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        symbols: Any = elf.get_section_by_name(".symtab")
        found = [symbol for symbol in symbols.iter_symbols() if symbol.name == function]
        symbol = sorted(found, key=lambda one: int(one["st_value"]))[number]
        section = elf.get_section(symbol["st_shndx"])
        start = symbol["st_value"] - section["sh_addr"]
        offset = section.data()[start : start + symbol["st_size"]].index(text)
    return f"{function}+{offset:#x}/{symbol['st_size'] + 9:#x}"  # a kernel counts what is between functions too


@pytest.mark.parametrize("dwarf", ["-gdwarf-4", "-gdwarf-5"])
def test_places_have_a_file_and_a_line(tmp_path: Path, dwarf: str) -> None:
    path = build(tmp_path, dwarf)
    lines = Lines(path)
    two = place(path, "first", b"\x02\0\0\0")
    assert lines.of(two, returns=False) == "net/one.c:12"
    # After the call the next line's instructions may begin; what was called from is the line before.
    call = place(path, "first", b"\xe8")
    function, _, rest = call.partition("+")
    offset, _, size = rest.partition("/")
    assert lines.of(f"{function}+{int(offset, 16) + 5:#x}/{size}", returns=True) == "net/one.c:13"


def test_functions_of_the_same_name_are_distinguished_only_by_size(tmp_path: Path) -> None:
    path = build(tmp_path, "-g")
    lines = Lines(path)
    told = [lines.of(place(path, "twin", number=number), returns=False) for number in range(2)]
    assert [line.partition(":")[0] for line in told] == ["net/one.c", "other.c"]
    (tmp_path / "net" / "one.c").write_text(ONE.replace("first", "another"))
    shutil.copy(tmp_path / "net" / "one.c", tmp_path / "other.c")
    for name in ("net/one", "other"):
        subprocess.run(["gcc", "-g", "-O1", "-c", f"{name}.c", "-o", f"{name}.o"], cwd=tmp_path, check=True)
    subprocess.run(
        ["gcc", "-nostdlib", "-static", "-Wl,-z,muldefs,-e0", "net/one.o", "other.o", "-o", "vmlinux"],
        cwd=tmp_path,
        check=True,
    )
    assert Lines(path).of(place(path, "twin"), returns=False) == ""


def test_what_is_not_there_has_no_line(tmp_path: Path) -> None:
    lines = Lines(build(tmp_path, "-g"))
    for unknown in ("absent+0x1/0x2", "first+0x0/0x1000", "no place"):
        assert lines.of(unknown, returns=False) == ""
    plain = Lines(build(tmp_path / "plain"))
    assert plain.of(place(tmp_path / "plain" / "vmlinux", "first"), returns=False) == ""


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = build(tmp_path, "-g")
    where = place(path, "first")
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(KernelFileError, match="cannot be read"):
        Lines(path).of(where, returns=False)


def test_the_file_with_lines_is_that_of_the_same_build(tmp_path: Path) -> None:
    tree, unpacked = tmp_path / "tree", tmp_path / "unpacked"
    path = build(tree, "-g")
    subprocess.run(["objcopy", "--strip-all", path, unpacked], check=True)
    boot = tree / "arch" / "x86" / "boot"
    boot.mkdir(parents=True)
    (boot / "bzImage").write_bytes(b"MZ")
    for named in (tree, boot / "bzImage", path):
        assert with_lines(named, unpacked) == path
    assert with_lines(unpacked, unpacked) is None
    assert with_lines(tree, None) is None
    build(tree, "-g", "-DANOTHER", "-O2")
    assert with_lines(tree, unpacked) is None
