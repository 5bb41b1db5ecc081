"""What can be judged of an object on the host, before anything boots: whether it is a BPF object, and what it has."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section, SymbolTableSection

from harness.check.plan import Plan, Variable
from harness.errors import UsageError
from harness.util.architecture import ByteOrder

_EXPECTED = "a BPF object: an ELF file that clang -target bpf or bpf-gcc made, or a C source"
_VARIABLES = (".rodata", ".data", ".bss")
_SHF_EXECINSTR = 4
_BITCODE = (b"BC\xc0\xde", b"\xde\xc0\x17\x0b")
"""How LLVM's bitcode begins, and what wraps it."""


@dataclass(frozen=True)
class Symbol:
    """A global variable of an object.

    Attributes:
        section: ".rodata", ".data", ".bss", or one that begins so.
        offset: Bytes from the section's start.
        size: Bytes.
    """

    section: str
    offset: int
    size: int


@dataclass(frozen=True)
class ObjectFile:
    """An object that a loader could try.

    Attributes:
        data: The file.
        byte_order: Of its instructions and values.
        programs: Its programs' sections.
        variables: Its global variables by name.
    """

    data: bytes
    byte_order: ByteOrder
    programs: tuple[str, ...]
    variables: dict[str, Symbol]


def read_object(path: Path) -> ObjectFile:
    """Read an object, and judge what no kernel need be asked for.

    Raises:
        UsageError: It cannot be read, or no loader of this machine can load it on any kernel.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the BPF object {path} cannot be read: {error.strerror}", expected=_EXPECTED) from error
    if data.startswith(_BITCODE):
        raise UsageError(
            f"{path} is not a BPF object: it is LLVM's bitcode, as clang -flto and -emit-llvm make it",
            expected=_EXPECTED,
            hint="compile it without -flto, or make the object with llc -march=bpf -filetype=obj",
        )
    if not data.startswith(b"\x7fELF"):
        raise UsageError(f"{path} is not a BPF object: it is not an ELF file", expected=_EXPECTED)
    try:
        file = ELFFile(io.BytesIO(data))
        machine, kind = str(file["e_machine"]), str(file["e_type"])
        sections = list(file.iter_sections())
    except (ELFError, ValueError, KeyError) as error:
        raise UsageError(f"{path} is a damaged ELF file: {error}", expected=_EXPECTED) from error
    if machine != "EM_BPF":
        what = machine.removeprefix("EM_").lower()
        raise UsageError(
            f"{path} is not a BPF object: it is {'a program' if kind != 'ET_REL' else 'an object'} for {what}",
            expected=_EXPECTED,
            hint="give the object that the program loads; the program itself goes to --run-loader",
        )
    if kind != "ET_REL":
        raise UsageError(f"{path} is a BPF file that is linked already ({kind})", expected="an object (ET_REL)")
    programs = tuple(
        section.name
        for section in sections
        if section["sh_type"] == "SHT_PROGBITS" and section["sh_flags"] & _SHF_EXECINSTR and section["sh_size"]
    )
    names = {section.name for section in sections}
    # libbpf makes a map of each section of variables too.
    variables = any(section.name.startswith(_VARIABLES) and section["sh_size"] for section in sections)
    if not programs and not variables and not names.intersection({".maps", "maps"}):
        raise UsageError(
            f"{path} has neither programs nor maps nor variables",
            expected="a section for a program (SEC(...)), for maps (.maps) or for variables",
        )
    return ObjectFile(data, "little" if file.little_endian else "big", programs, _variables(sections))


def _variables(sections: list[Section]) -> dict[str, Symbol]:
    found = {}
    for table in sections:
        if not isinstance(table, SymbolTableSection):
            continue
        for symbol in table.iter_symbols():
            at = symbol["st_shndx"]
            if symbol["st_info"]["type"] == "STT_OBJECT" and isinstance(at, int) and symbol["st_size"]:
                section = sections[at].name
                if section.startswith(_VARIABLES):
                    found[symbol.name] = Symbol(section, symbol["st_value"], symbol["st_size"])
    return found


def initial_values(found: ObjectFile, plan: Plan) -> list[tuple[str, int, bytes]]:
    """Return what is to be put into global variables: section, offset and bytes.

    Raises:
        UsageError: The object has no such variable, or the value does not fit.
    """
    return [_initial_value(found, variable, plan) for variable in plan.variables]


def _initial_value(found: ObjectFile, variable: Variable, plan: Plan) -> tuple[str, int, bytes]:
    symbol = found.variables.get(variable.name)
    if symbol is None:
        raise UsageError(
            f"{plan.path} has no global variable {variable.name!r}",
            expected=f"one of {', '.join(sorted(found.variables)) or 'none at all'}",
        )
    return symbol.section, symbol.offset, variable.encoded(symbol.size, found.byte_order)
