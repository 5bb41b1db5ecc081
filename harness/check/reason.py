"""Reads what libbpf and the verifier said about a refused object: the line that is the reason, who says it, of what.

Pure: texts in, records out. tests/unit/check/logs has real logs, each with the line that a person would point at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from harness.check.results import Author
from harness.util.errnos import errno_name

ENOMEM, EINVAL, EOPNOTSUPP = 12, 22, 95
_FIRST_OF_LIBBPF = 4000


@dataclass(frozen=True)
class Reason:
    """Why an object was refused.

    Attributes:
        line: The line that a person would point at; "" when nothing was said.
        author: Who refused.
        program: The program that was refused; "" when it was something else.
        map: The map that was refused; "" when it was something else.
        needs_map: The map that a program uses and that was not created; "" for none.
        needs_program: The program that a map's initial values name and that was not loaded; "" for none.
    """

    line: str
    author: Author
    program: str = ""
    map: str = ""
    needs_map: str = ""
    needs_program: str = ""


# What the verifier prints besides its words: instructions, the state of registers in a form that depends on the
# kernel, the source, and what it counted.
_INSTRUCTION = re.compile(r"^\d+: \([0-9a-f]{2}\)")
_STATE = re.compile(
    r"^(?:\d+: ?)?(?:from \d+ to \d+(?: \(speculative execution\))?: ?)?"
    r"(?:safe|(?:frame\d+: ?)?R\d+(?:_\w+)?=.*|frame\d+:.*)?$"
)
_NOISE = re.compile(
    r"^(?:;|func#\d+ @|live regs|Live regs|last_idx|first_idx|regs=|parent |propagating|mark_precise|from \d+ to \d+"
    r"|(?:cur|old) state:|caller:|callee:|returning from callee|to caller at"
    r"|Validating \S+ func#|Func#\d+ is safe|\S+\(\) is safe"
    # The kernel has no types (5.15 to 6.6), and cannot compare a program's argument with them.
    r"|btf_vmlinux is malformed$|Unrecognized arg#\d+ type |arg#\d+ type is not a struct$"
    r"|reg type unsupported for arg#\d+ function |arg#\d+ reference type\('UNKNOWN"
    r"|processed \d+ insns|verification time|stack depth|insns_processed|mark_read"
    r"|max_states_per_insn|\(\w{2}\) |BPF program is valid$|-- (?:BEGIN|END) PROG LOAD LOG --)"
)
# After a jump the verifier ends no line before it says more.
_AFTER_JUMP = re.compile(r"^\d+: \([0-9a-f]{2}\) .*goto pc[+-]\d+ (?P<words>[A-Za-z](?!\d+[=_]).*)$")
# From 7.3 on, an explanation of many lines follows a refusal; the refusal itself comes before it.
_EXPLANATION = "Verification failed: "


def _words(log: str) -> Iterator[str]:
    for raw in log.splitlines():
        line = raw.strip()
        if line.startswith(_EXPLANATION):
            return
        if after := _AFTER_JUMP.match(line):
            yield after["words"]
            continue
        if not line or _INSTRUCTION.match(line) or _STATE.match(line) or _NOISE.match(line):
            continue
        yield line


def verifier_line(log: str) -> str:
    """Return the verifier's last words in its log, before what it counted; "" when it said nothing."""
    return next(iter([*_words(log)][::-1]), "")


_PREFIX = "libbpf: "
_LOG = re.compile(
    r"^(?:libbpf: )?(?:prog '[^']*': )?-- BEGIN (?:PROG LOAD|DUMP) LOG -{2,3}\n(?P<log>.*?)"
    r"^(?:libbpf: )?-- END (?:PROG LOAD )?LOG --\n?",
    re.DOTALL | re.MULTILINE,
)
_BTF_LOG = re.compile(
    r"^(?:libbpf: )?-- BEGIN BTF LOAD LOG -+\n.*?^(?:libbpf: )?-- END BTF LOAD LOG -+\n?", re.DOTALL | re.MULTILINE
)
# Lines that tell nothing of the cause: notices, first attempts that are tried again, and what follows from a cause.
_ASIDE = re.compile(
    r"Retrying without BTF|^elf: skipping|^skipping |BTF is optional, ignoring|^failed to load (?:object|program)"
    r"|^BTF loading error"
    # The kernel has no types of the program, so that libbpf leaves out what it knows of its functions and lines.
    r"|missing \.BTF\.ext (?:function|line) info for the main program"
    r"|: failed to load: -?\d+$|^Error loading BTF|^magic: 0x|^-- (?:BEGIN|END)|^failed to load '\S*'$"
    r"|^permission error while running as root"
)
# What libbpf writes for an error that the C library has no name for.
_UNNAMED = re.compile(r"ERROR: strerror_r\((\d+)\)=-?\d+")
_PROGRAM = re.compile(r"^prog '([^']+)': ")
_REFUSED = re.compile(r"^prog '([^']+)': (?:BPF program load failed|failed to load)|^failed to load program '([^']+)'")
_MAP = re.compile(r"^map '([^']+)': ")
LACKS_TYPES = re.compile(r"failed to find valid kernel BTF|Error loading vmlinux BTF|vmlinux BTF is not found")
_UNLOADED = re.compile(r"failed to initialize slot \[\d+\] to prog '([^']+)' fd=-")
_UNCREATED = re.compile(r"BPF map '([^']+)' is referenced but wasn't created")
# libbpf leaves these maps out by itself where the kernel (before 5.2) has no maps for global variables.
OF_VARIABLES = re.compile(r"\.(?:rodata|data|bss|kconfig)\b")
# What only the kernel can have said: libbpf prints these after bpf(2) has failed, or when the kernel lacks something.
_OF_KERNEL = re.compile(
    r"BPF program load failed|failed to create|failed to freeze|Error loading \.BTF into kernel|failed to auto-?attach"
    r"|failed to load BPF program|kernel BTF|vmlinux BTF|in kernel's BTF|CO-RE relo|failed to pin|failed to auto-pin"
    r"|failed to find BTF for extern|extern \((?:var|func|ksym|kfunc)|perf_event|kprobe|uprobe|tracepoint"
    r"|failed to attach|failed to set initial contents|failed to initialize slot|failed to update|failed to reserve"
    r"|doesn't support|isn't supported by (?:the )?kernel|kernel doesn't"
)
# The guest has neither a configuration nor programs with symbols, unless it was given them.
_OF_HARNESS = re.compile(r"failed to open system Kconfig|^elf: failed to (?:open|find symbol)")
_OF_LIBBPF = re.compile(r"missing BPF prog type|couldn't reuse pinned map|legacy map definitions")


def explain(errno: int, said: str, log: str = "") -> Reason:
    """Return why an object was refused.

    Args:
        errno: The error number.
        said: libbpf's messages.
        log: The verifier's log of the refused program, where it is known; else it is taken from the messages.
    """
    said = _UNNAMED.sub(lambda match: errno_name(int(match[1])), _BTF_LOG.sub("", said))
    lines = [line.removeprefix(_PREFIX).rstrip() for line in _LOG.sub("", said).splitlines() if line.strip()]
    causes = [line for line in lines if not _ASIDE.search(line)]
    first = causes[0] if causes else lines[0] if lines else ""
    refused = [match[1] or match[2] for line in lines if (match := _REFUSED.match(line))]
    program = next(iter([*refused, *(match[1] for line in causes if (match := _PROGRAM.match(line)))]), "")
    refused_map = "" if program else next((match[1] for line in causes if (match := _MAP.match(line))), "")
    inside = _LOG.search(said)
    verifier = log or (inside["log"] if inside else "")
    words = verifier_line(verifier)
    if needs := _UNCREATED.search(verifier):
        author = Author.KERNEL if OF_VARIABLES.search(needs[1]) else Author.LIBBPF
        return Reason(words, author, program, "", needs[1])
    line = words if words and (program or not causes) else first
    unloaded = next((match[1] for line in causes if (match := _UNLOADED.search(line))), "")
    return Reason(line, _author(errno, causes, words), program, "" if unloaded else refused_map, "", unloaded)


def _author(errno: int, causes: list[str], words: str) -> Author:
    """Return who refused: libbpf unless something shows that the kernel was asked; a wrong "the kernel" is worse."""
    if any(_OF_HARNESS.search(line) for line in causes):
        return Author.HARNESS
    if errno >= _FIRST_OF_LIBBPF or any(_OF_LIBBPF.search(line) for line in causes):
        return Author.LIBBPF
    return Author.KERNEL if words or any(_OF_KERNEL.search(line) for line in causes) else Author.LIBBPF


def output_line(stdout: str, stderr: str) -> str:
    """Return the line that a person would point at in the output of a program that failed: standard error's last."""
    for text in (stderr, stdout):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if lines:
            return lines[-1]
    return ""
