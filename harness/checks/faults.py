"""Finds faults in the kernel log: warnings, oopses, sanitizer and lock reports, stalls, corruption.

Pure: records of /dev/kmsg or lines of a console in, faults out. :data:`SIGNS` defines the faults: patterns
anchored at the start of a message, because messages about programs ("traps: a.out general protection fault ...")
fault ...") holds the same words further on.

The formats are the kernel's own: lib/bug.c, kernel/panic.c, arch/x86/kernel/dumpstack.c, mm/kasan/report.c,
kernel/kcsan/report.c, lib/ubsan.c, kernel/locking/lockdep.c, kernel/rcu/tree_stall.h, kernel/watchdog.c,
kernel/hung_task.c, lib/list_debug.c, lib/refcount.c, mm/page_alloc.c, mm/slub.c, mm/kmemleak.c, kernel/sched/core.c.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from harness.checks.log_records import LogRecord
from harness.results.types import Fault

_LONGEST = 200
"""Longest report, in lines."""
_UNTRACED = 20
"""Longest report without a stack trace, in lines."""
_BREATH = 50_000
"""Microseconds: lines without a stack trace within this time belong together."""
_SHOWN = 90
"""Lines of an excerpt."""
_TOP = 3
"""Frames in a fingerprint."""
_PANIC_AFTER = 10_000_000
"""Microseconds: a panic within this time is the end of the fault before it, not a separate fault."""


class End(enum.Enum):
    """The end of a report."""

    MARK = "---[ end trace ]---"
    RULE = "a line of ="
    TRACE = "the end of its stack trace"
    LINE = "itself: it is one line"


@dataclass(frozen=True)
class Sign:
    """The first line of a kind of fault.

    Attributes:
        kind: The kind's name.
        pattern: Matches the line from its start.
        end: The end of its report.
    """

    kind: str
    pattern: re.Pattern[str]
    end: End


def _signs(*rows: tuple[str, End, tuple[str, ...]]) -> tuple[Sign, ...]:
    return tuple(Sign(kind, re.compile("|".join(patterns)), end) for kind, end, patterns in rows)


_MAY_WAIT = "GFP_KERNEL|GFP_USER|GFP_HIGHUSER|GFP_NOIO|GFP_NOFS|__GFP_RECLAIM|__GFP_DIRECT_RECLAIM"
_LOCKDEP = r"(?:\[ )?(?:WARNING|INFO|BUG): "

SIGNS = _signs(
    ("KASAN", End.RULE, (r"BUG: KASAN: ",)),
    ("KCSAN", End.RULE, (r"BUG: KCSAN: ",)),
    ("KMSAN", End.RULE, (r"BUG: KMSAN: ",)),
    ("KFENCE", End.RULE, (r"BUG: KFENCE: ",)),
    ("UBSAN", End.RULE, (r"UBSAN: ",)),
    ("soft lockup", End.TRACE, (r"(?:NMI )?(?:watchdog: )?BUG: soft lockup - ",)),
    (
        "hard lockup",
        End.TRACE,
        (
            r"(?:NMI )?watchdog: BUG: hard lockup",
            r"(?:NMI )?watchdog: (?:CPU\d+: )?Watchdog detected hard LOCKUP",
            r"watchdog: CPU \d+ (?:self-)?detected hard LOCKUP",  # ppc64el
        ),
    ),
    ("workqueue lockup", End.LINE, (r"(?:workqueue: )?BUG: workqueue lockup",)),
    (
        "RCU stall",
        End.TRACE,
        (
            r"(?:\w+: )?INFO: rcu\w* self-detected stall",
            r"(?:\w+: )?INFO: rcu\w* detected (?:expedited )?stalls",
        ),
    ),
    ("hung task", End.TRACE, (r"INFO: task .+:\d+ blocked (?:in I/O wait )?for more than \d+ seconds",)),
    ("scheduling while atomic", End.TRACE, (r"BUG: scheduling while atomic: ",)),
    ("sleeping in atomic", End.TRACE, (r"BUG: sleeping function called from invalid context",)),
    ("preemptible", End.TRACE, (r"BUG: using \S+ in preemptible ",)),
    (
        "lockdep",
        End.TRACE,
        (
            _LOCKDEP + r"possible (?:circular locking|recursive locking|irq lock inversion)",
            _LOCKDEP + r"\S+-safe -> \S+-unsafe lock order",
            _LOCKDEP + r"(?:inconsistent lock state|bad unlock balance|bad contention|held lock freed)",
            _LOCKDEP + r"(?:lock held when returning|Nested lock was not taken|suspicious RCU usage)",
            _LOCKDEP + r"(?:Invalid wait context|.*still has locks held)",
            r"INFO: trying to register non-static key",
            r"BUG: MAX_(?:LOCK\w*|STACK_TRACE\w*) too low",
            r"BUG: key .* (?:not in \.data|has not been registered)",
            r"BUG: (?:looking up invalid subclass|spinlock |rwlock )",
        ),
    ),
    ("bad page", End.TRACE, (r"BUG: Bad (?:page|rss-counter|swap)", r"BUG: non-zero pgtables_bytes")),
    (
        "slab corruption",
        End.TRACE,
        (r"BUG \S.*?\((?:Not tainted|Tainted.*?)\): ", r"kmem_cache_destroy \S+: Slab cache still has objects"),
    ),
    ("list corruption", End.LINE, (r"h?list_(?:add|del)\w* (?:corruption|double add)",)),
    ("refcount", End.LINE, (r"refcount_t: ", r"unregister_netdevice: waiting for ")),
    ("BUG", End.MARK, (r"kernel BUG at ",)),
    ("GPF", End.MARK, (r"(?:Oops: )*general protection fault\b.*\[#\d+\]",)),
    (
        "oops",
        End.MARK,
        (
            r"BUG: (?:[Uu]nable to handle|[Kk]ernel NULL pointer|.*stack guard page)",
            r"Unable to handle kernel ",  # arm64, s390x, riscv64
            r"(?:Oops|Kernel BUG)\b.*\[#\d+\]",  # ppc64el, riscv64
            r"(?:PANIC: )?double fault|Fixing recursive fault",
            r"Internal error: .*\[#\d+\]",  # arm64, armhf
            r".*: (?:0x)?[0-9a-f]{4,16} (?:ilc:\d )?\[#\d+\]",
        ),
    ),
    ("WARN", End.MARK, (r"WARNING: CPU: \d+ PID: \d+ at ", r"WARNING: \S+:\d+ at ", r"WARNING: at ")),
    ("WARN", End.LINE, (r"WARNING: (?:kernel stack |stack |can't )",)),
    (
        "allocation failure",
        End.TRACE,
        (rf".*page allocation failure: order:\d+, mode:0x\w+\((?![^)]*(?:{_MAY_WAIT}))",),
    ),
    (
        "kmemleak",
        End.LINE,
        (
            r"kmemleak: \d+ new suspected memory leaks",
            r"kmemleak: (?:Kernel memory leak detector disabled|Memory pool empty)",
        ),
    ),
    ("IRQ", End.TRACE, (r"irq \d+: nobody cared",)),
    ("NMI", End.LINE, (r"(?:NMI: )?(?:Uhhuh\. )?NMI received for unknown reason", r"NMI: (?:PCI system|IOCK) error")),
    ("BUG", End.TRACE, (r"BUG: ",)),
    ("panic", End.MARK, (r"Kernel panic - not syncing: ",)),
    ("lost records", End.LINE, (r"harness: the kernel's log buffer overran",)),
)
"""The faults, the most specific first."""

PANIC = re.compile("^Kernel panic - not syncing: .*", re.MULTILINE)
"""The line of a panic in a report, which need not be a panic's: that of an oops or a warning that led to it has one."""

_CUT = re.compile(r"-+\[ cut here \]-+")
_MARK = re.compile(r"---\[ end ")
_RULE = re.compile(r"={10,}$")
_CALL_TRACE = re.compile(r"\s*Call Trace:|\s*stack backtrace:|\s*backtrace:", re.IGNORECASE)
_FUNCTION = r"([A-Za-z_][\w.$]*)\+(0x[0-9a-f]+)/(0x[0-9a-f]+)"
# A mark says that the frame may be none: a question mark, on s390x a parenthesis around it, on ppc64el a word after it.
# On armhf each line names a function and then where it was called from.
_FRAME = re.compile(
    r"\s*(\((?=\[<))?(?:\[<?[0-9a-f]+>?\]\s*)*(\? )?(?!.*\(unreliable\))(?:\S+ from (?:\[<[0-9a-f]+>\] \()?)?"
    + _FUNCTION
)
# The line with the faulting instruction, on x86-64, on arm64 and riscv64, on s390x, on ppc64el and on armhf.
_RIP = re.compile(
    r"(?:RIP: (?:0010:)?(?:\[<[0-9a-f]+>\]\s*)?|(?<!\w)e?pc : |Krnl PSW : [0-9a-f]+ [0-9a-f]+ \(|NIP \[[0-9a-f]+\] "
    r"|PC is at )" + _FUNCTION
)
_AT = re.compile(rf"WARNING: .*\bat (?:\S+:\d+ )?{_FUNCTION}")
# Other lines between the frames of a trace and after them.
_IN_TRACE = re.compile(
    r"\s|$|</?\w+>|[ER]?(?:IP|SP|BP|FLAGS):|R[A-D]X:|R[SD]I:|R\d+:|[CDEFG]S:|[CD]R\d:|PKRU:|Code:|CPU: |Hardware name"
)
_SECTION = re.compile(r"\s*<(/?)(IRQ|NMI|#DF|SOFTIRQ|TASK|EOI)>")

_GENERIC = re.compile(
    r"(?:__)?dump_stack\w*|show_stack\w*|show_regs\w*|sched_show_task|(?:__)?warn(?:_slowpath_\w+|_printk)?|report_bug"
    r"|handle_bug|asm_\w+|exc_\w+|do_(?:error_)?trap\w*|do_invalid_op|invalid_op|error_entry|(?:__)?die\w*|oops_\w+"
    r"|page_fault\w*|(?:__)?bad_area\w*|no_context|do_user_addr_fault|(?:__)?do_page_fault|fixup_bug\w*|panic"
    r"|print_(?:report|address_\w+|circular_bug\w*|bad_\w+|usage_bug\w*|irq_\w+|trailer|section|unlock\w*|page_info)"
    r"|(?:__)?kasan_\w+|__asan_\w+|check_memory_region\w*|(?:__)?ubsan_\w+|val_to_string|handle_overflow|kcsan_\w+"
    r"|check_(?:noncircular|prev_add|prevs_add|deadlock|wait_context|usage\w*)|(?:__)?lock_acquire|(?:__)?lock_release"
    r"|validate_chain|mark_(?:lock\w*|usage)|lockdep_\w+|debug_check_no_\w+|___?might_(?:sleep|resched)"
    r"|__might_resched|__schedule_bug|__schedule|schedule\w*|preempt_schedule\w*|check_preemption_disabled"
    r"|nmi_\w+|trigger_\w+|watchdog\w*|rcu_(?:dump_\w+|sched_clock_irq|check_\w+)|check_cpu_stall|print_cpu_stall"
    r"|refcount_warn_saturate|__list_(?:add|del_entry)_valid\w*|warn_alloc\w*|(?:__)?(?:alloc|get_free)_(?:frozen_)?pages\w*|free_to_partial_list|bad_page\w*|dump_page|object_err|slab_err"
    r"|slab_(?:pad_check|bug)|check_(?:bytes_and_report|object|slab)|on_freelist|free_debug_processing|entry_\w+"
    r"|(?:__)?mutex_(?:un)?lock\w*|_raw_(?:spin|read|write)_\w+|down_(?:read|write)\w*"
    r"|(?:__)?k[mzc]alloc\w*|__do_kmalloc\w*|(?:__)?kmem_cache_alloc\w*|slab_post_alloc\w*|kmemleak_alloc\w*"
    r"|do_syscall_\w+|x64_sys_call|ret_from_fork\w*|start_thread|secondary_startup_\w+"
    # arm64
    r"|invoke_syscall|el[01]t?h?_\w+|do_el0_svc|do_mem_abort|do_translation_fault|__do_kernel_fault|__primary_switched"
    # armhf
    r"|unwind_backtrace|ret_fast_syscall"
    # s390x, ppc64el, riscv64
    r"|system_call\w*|__do_syscall|handle_exception|(?:__do_)?pgm_check\w*|monitor_event_exception|illegal_op"
)
"""Functions that report a fault or enter the kernel; they say nothing about the fault itself."""

_SUFFIX = re.compile(r"(?:\.(?:isra|part|constprop|cold|llvm|lto_priv)(?:\.\d+)?|\.\d+)+$")
_NUMBERS = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+")
_MORE_OF_A_STALL = re.compile(r"rcu: (?!INFO)|Sending NMI|NMI backtrace|task:")
_WHOM_IT_HIT = frozenset({"soft lockup", "hard lockup", "RCU stall"})


def sign_of(text: str) -> Sign | None:
    """Return the sign that a line matches; None when it does not begin a report."""
    return next((sign for sign in SIGNS if sign.pattern.match(text)), None)


def find_faults(records: Iterable[LogRecord]) -> list[Fault]:
    """Return the kernel's faults in the order of the log; lines that programs wrote into the log are ignored."""
    lines = [record for record in records if record.facility == 0]
    found: list[Fault] = []
    at = 0
    latest = 0  # Microseconds since boot at the title of the latest fault.
    while at < len(lines):
        block = _block(lines, at)
        if block is None:
            at += 1
            continue
        title, sign, end = block
        fault = _fault(lines[at:end], title - at, sign)
        at = end
        usec = lines[title].usec
        if fault.kind == "panic" and found and 0 <= usec - latest < _PANIC_AFTER:
            # The end of the fault before it ("Fatal exception", panic_on_warn), not a separate fault.
            whole = [*found[-1].excerpt.split("\n"), *fault.excerpt.split("\n")]
            found[-1] = msgspec.structs.replace(found[-1], excerpt="\n".join(whole[: 2 * _SHOWN]))
        else:
            found.append(fault)
            latest = usec
    return found


def _block(lines: Sequence[LogRecord], at: int) -> tuple[int, Sign, int] | None:
    """Return the title's place, its sign, and the end of the report that begins here; None when no report begins."""
    text = lines[at].text
    if _CUT.match(text):
        end = _find(lines, at + 1, _MARK, stop=_CUT)
        for place in range(at + 1, min(at + 12, end)):
            sign = sign_of(lines[place].text)
            if sign is not None:
                # Where a warning is printed by a function (armhf, x86-64 before v4.19), its words follow it.
                words = sign_of(lines[place + 1].text) if sign.kind == "WARN" and place + 1 < end else None
                return (place, sign, end) if words is None or words.kind == "WARN" else (place + 1, words, end)
        return min(at + 1, len(lines) - 1), _UNKNOWN, max(end, at + 1)
    title = at
    if _RULE.match(text):
        # The rule is the first line of a report, or the last line of the report before it.
        title = at + 1
        if title >= len(lines):
            return None
    sign = sign_of(lines[title].text)
    if sign is None or (title != at and sign.end is End.LINE):
        return None
    if sign.kind == "list corruption":
        # With CONFIG_BUG_ON_DATA_CORRUPTION it is printed before the report of the BUG that follows.
        for place in range(title + 1, min(title + 4, len(lines))):
            if _CUT.match(lines[place].text):
                return title, sign, _find(lines, place + 1, _MARK, stop=_CUT)
    return title, sign, _end(lines, title, sign)


_UNKNOWN = Sign("WARN", re.compile(""), End.MARK)


def _end(lines: Sequence[LogRecord], title: int, sign: Sign) -> int:
    if sign.end is End.LINE:
        return title + 1
    if sign.end is End.MARK:
        return _find(lines, title + 1, _MARK, stop=_CUT)
    if sign.end is End.RULE:
        return _find(lines, title + 1, _RULE, stop=_CUT)
    limit = min(len(lines), title + _LONGEST)
    traced = -1
    for place in range(title + 1, limit):
        text = lines[place].text
        if _CUT.match(text) or (place > title + 2 and sign_of(text) is not None):
            return place
        if _CALL_TRACE.match(text):
            traced = place
        elif traced >= 0 and place > traced + 1 and not _FRAME.match(text) and not _IN_TRACE.match(text):
            if sign.kind == "RCU stall" and _MORE_OF_A_STALL.match(text):
                traced = -1
                continue
            return place
    # Without a trace, only lines logged at the same moment belong to it.
    if traced < 0:
        limit = min(limit, title + _UNTRACED)
        return next((n for n in range(title + 1, limit) if lines[n].usec - lines[title].usec > _BREATH), limit)
    return limit


def _find(lines: Sequence[LogRecord], start: int, end: re.Pattern[str], *, stop: re.Pattern[str]) -> int:
    """Return the place after the last line of a report; without such a line, the start of the next report."""
    limit = min(len(lines), start + _LONGEST)
    for place in range(start, limit):
        if end.match(lines[place].text):
            return place + 1
        if stop.match(lines[place].text):
            return place
    return limit


def _fault(block: Sequence[LogRecord], title: int, sign: Sign) -> Fault:
    texts = [record.text for record in block]
    frames = frames_of(texts, skip_interrupts=sign.kind in _WHOM_IT_HIT)
    shown = texts if len(texts) <= _SHOWN else [*texts[: _SHOWN - 1], "(more lines in the kernel's log)"]
    return Fault(
        sign.kind, texts[title].strip(), fingerprint(sign.kind, texts[title], frames), excerpt="\n".join(shown)
    )


def frames_of(texts: Sequence[str], *, skip_interrupts: bool) -> list[str]:
    """Return the frames of a report's first stack trace, innermost first."""
    if skip_interrupts:
        # Where the stalled processor was; before it is the stack of a thread that waited for it.
        caught = next((place for place, text in enumerate(texts) if _RIP.match(text)), 0)
        texts = texts[caught:]
    first: list[str] = []
    frames: list[str] = []
    traced = hidden = False
    for text in texts:
        match = _RIP.search(text) or _AT.match(text)
        if match is not None and not traced and not first:
            first = [f"{match[1]}+{match[2]}/{match[3]}"]
        if _CALL_TRACE.match(text):
            if frames:
                break
            traced = True
        elif traced:
            section = _SECTION.match(text)
            if section is not None:
                hidden = skip_interrupts and section[2] in ("IRQ", "NMI") and not section[1]
            if match is not None and skip_interrupts:
                first = first or [f"{match[1]}+{match[2]}/{match[3]}"]
            frame = _FRAME.match(text.removeprefix(" <TASK>").removeprefix(" <IRQ>"))
            if frame is not None and frame[1] is None and frame[2] is None and not hidden:
                frames.append(f"{frame[3]}+{frame[4]}/{frame[5]}")
            elif frame is None and frames and not _IN_TRACE.match(text):
                break
    if not traced:
        # KFENCE shows its stacks without a heading; the faulting stack comes first.
        for text in texts:
            frame = _FRAME.match(text)
            if frame is not None:
                frames.append(f"{frame[3]}+{frame[4]}/{frame[5]}")
            elif frames:
                break
    return first + [frame for frame in frames if frame not in first]


def fingerprint(kind: str, title: str, frames: Iterable[str]) -> str:
    """Return a text that is equal for the same fault on another boot or build.

    Args:
        kind: The fault's kind.
        title: Its title, used when there are no frames.
        frames: Its frames, innermost first; frames of every report of the kind are skipped.
    """
    names = [_SUFFIX.sub("", frame.partition("+")[0]) for frame in frames]
    telling = [name for name in dict.fromkeys(names) if not _GENERIC.fullmatch(name)]
    if not telling:
        telling = [_NUMBERS.sub("N", title.strip())]
    return f"{kind}: {' < '.join(telling[:_TOP])}"


_PLACE = re.compile(rf"{_FUNCTION}(?![0-9a-f]| ?\[)")  # a module's name follows the place
_EXACT = re.compile(r"\s*(?:RIP: |e?pc : |NIP |PC is at |WARNING: )")


def with_lines(excerpt: str, line_of: Callable[[str, bool], str]) -> str:
    """Return a report with the source line added after each function of the kernel.

    Args:
        excerpt: Its lines.
        line_of: Returns the source line, or "", for function, offset and size, and whether it is a return address.
    """
    found = []
    for text in excerpt.split("\n"):
        place = _PLACE.search(text)
        line = line_of(place[0], _EXACT.match(text) is None) if place is not None else ""
        found.append(f"{text} ({line})" if line else text)
    return "\n".join(found)


TAINTS = {
    0: "P (a proprietary module was loaded)",
    1: "F (a module was loaded by force)",
    2: "S (out of specification)",
    3: "R (a module was unloaded by force)",
    4: "M (a machine check)",
    5: "B (a bad page)",
    6: "U (asked for from user space)",
    7: "D (an oops)",
    8: "A (an ACPI table was overridden)",
    9: "W (a warning)",
    10: "C (a staging driver)",
    11: "I (a firmware bug was worked around)",
    12: "O (a module from outside the tree)",
    13: "E (an unsigned module)",
    14: "L (a soft lockup)",
    15: "K (live-patched)",
    16: "X (auxiliary)",
    17: "T (randomised structures)",
    18: "N (an in-kernel test)",
    19: "J (fwctl)",
}
"""Linux Documentation/admin-guide/tainted-kernels.rst."""

_TOLD_BY_A_FAULT = frozenset({4, 5, 7, 9, 14})

_ORIGINS = frozenset({0, 10, 12, 13, 15, 18})
"""Flags that say what kind of module was loaded: a user who loads one of their own does so on purpose."""


def taint_fault(before: int, after: int, *, explained: bool) -> Fault | None:
    """Return the fault for a change of the kernel's taint flags.

    None when nothing changed, the log explains it, or the flags say no more than what kind of module was loaded.

    Args:
        before: The flags before.
        after: The flags after.
        explained: Whether a fault was found in the log; faults set flags too.
    """
    new = [bit for bit in range(64) if (after & ~before) >> bit & 1]
    new = [bit for bit in new if bit not in _ORIGINS and not (explained and bit in _TOLD_BY_A_FAULT)]
    if not new:
        return None
    words = ", ".join(TAINTS.get(bit, f"bit {bit}") for bit in new)
    title = f"the kernel was tainted: {words}"
    letters = ",".join(TAINTS.get(bit, str(bit))[0] if bit in TAINTS else str(bit) for bit in new)
    return Fault("taint", title, f"taint: {letters}", f"taint flags were {before}, are {after}")
