"""Which line of what libbpf and the verifier said is the reason, on real logs, and who refused.

The first line of each log names the errno, who refused, and the line that a person would point at.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.check.reason import explain, output_line, verifier_line
from harness.check.results import Author

LOGS = sorted((Path(__file__).parent / "logs").glob("*.log"))


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_the_line_that_a_person_would_point_at(path: Path) -> None:
    head, _, text = path.read_text().partition("\n")
    expected = re.fullmatch(r"errno (\d+), (\w+): (.*)", head)
    assert expected is not None, head
    is_librarys = text.startswith("libbpf: ")
    said, log = (text, "") if is_librarys else ("libbpf: prog 'x': BPF program load failed: why\n", text)
    reason = explain(int(expected[1]), said, log)
    assert (reason.line, reason.author.value) == (expected[3], expected[2])


def test_there_are_logs() -> None:
    assert len(LOGS) > 20


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("", ""),
        ("0: R1=ctx(off=0,imm=0) R10=fp0\n0: (95) exit\nprocessed 1 insns (limit 1000000)\n", ""),
        ("btf_vmlinux is malformed\nreg type unsupported for arg#0 function p#7\nprocessed 2 insns\n", ""),
        ("arg#0 type is not a struct\nUnrecognized arg#0 type PTR\nprocessed 2 insns\n", ""),
        ("0: (05) goto pc-1\nback-edge from insn 0 to 0\n", "back-edge from insn 0 to 0"),
        ("1: (55) if r1 != 0x0 goto pc+1 9: R0_w=1 R10=fp0\nR0 !read_ok\n", "R0 !read_ok"),
        ("1: (55) if r1 != 0x0 goto pc+1 R0_w=1 R10=fp0\nR0 !read_ok\n", "R0 !read_ok"),
        ("from 3 to 5: R0=inv0 R10=fp0\nR0 invalid mem access 'inv'\n", "R0 invalid mem access 'inv'"),
        (
            "R1 type=map_value_or_null expected=map_ptr\nprocessed 5 insns\n",
            "R1 type=map_value_or_null expected=map_ptr",
        ),
        (
            "R0 !read_ok\nprocessed 1 insns\n\nVerification failed: Types\n\nSuggestion:\n  Pass a value.\n",
            "R0 !read_ok",
        ),
        ("8: (5d) if r2 != r1 goto pc-5 infinite loop detected at insn 4\n", "infinite loop detected at insn 4"),
        ("verification time 35 usec\nstack depth 8+0\nunreachable insn 3\n", "unreachable insn 3"),
    ],
)
def test_the_verifiers_last_words(log: str, line: str) -> None:
    assert verifier_line(log) == line


def test_the_blamed_program_and_map_are_named() -> None:
    program = explain(13, "libbpf: prog 'bad': BPF program load failed: Permission denied\n", "R0 !read_ok\n")
    assert (program.program, program.map, program.line) == ("bad", "", "R0 !read_ok")
    refused = explain(
        22, "libbpf: map 'none': failed to create: Invalid argument(-22)\nlibbpf: failed to load object 'x'"
    )
    assert (refused.program, refused.map) == ("", "none")
    notices = explain(13, (LOGS[0].parent / "libbpf-1.1-gcc-pointer_arithmetic.log").read_text().partition("\n")[2])
    assert notices.program == "pointer_arithmetic"  # libbpf has a notice on an accepted program before it
    older = explain(
        13,
        "libbpf: load bpf program failed: Permission denied\nlibbpf: failed to load program 'old'\n",
        "R0 !read_ok\n",
    )
    assert (older.program, older.line) == ("old", "R0 !read_ok")
    user = explain(
        22,
        "libbpf: prog 'p': BPF program load failed\n",
        "<invalid>\nBPF map 'none' is referenced but wasn't created\n",
    )
    assert (user.program, user.needs_map) == ("p", "none")
    slot = explain(9, "libbpf: map 'jumps': failed to initialize slot [0] to prog 'leaf' fd=-2: -9\n")
    assert (slot.map, slot.needs_program) == ("", "leaf")


@pytest.mark.parametrize(
    ("errno", "said", "author"),
    [
        (4001, "libbpf: elf: 'x' is not a proper ELF object\n", Author.LIBBPF),
        (2, "libbpf: failed to open system Kconfig\n", Author.HARNESS),
        (
            22,
            "libbpf: map 'ports': couldn't reuse pinned map at '/sys/fs/bpf/ports': parameter mismatch\n",
            Author.LIBBPF,
        ),
        (3, "libbpf: failed to find valid kernel BTF\n", Author.KERNEL),
        (22, "libbpf: something that nobody has seen yet\n", Author.LIBBPF),
        (22, "", Author.LIBBPF),
    ],
)
def test_who_refused(errno: int, said: str, author: Author) -> None:
    assert explain(errno, said).author is author


def test_an_error_without_a_name_in_the_c_library_is_named() -> None:
    said = "libbpf: prog 'so': BPF program load failed: ERROR: strerror_r(524)=22\n"
    assert explain(524, said, "processed 0 insns\n").line == "prog 'so': BPF program load failed: ENOTSUPP"


def test_the_log_inside_libbpfs_messages_is_the_verifiers() -> None:
    said = (
        "libbpf: prog 'bad': BPF program load failed: Permission denied\n"
        "libbpf: prog 'bad': -- BEGIN PROG LOAD LOG --\n0: (95) exit\nR0 !read_ok\nprocessed 1 insns\n"
        "-- END PROG LOAD LOG --\nlibbpf: prog 'bad': failed to load: -13\nlibbpf: failed to load object 'x'\n"
    )
    assert explain(13, said).line == "R0 !read_ok"


def test_a_loader_is_quoted_by_its_last_line() -> None:
    assert output_line("trying\n", 'Traceback:\n  File "x"\nValueError: no\n\n') == "ValueError: no"
    assert output_line("one\ntwo\n", "") == "two"
    assert output_line("", " \n") == ""
