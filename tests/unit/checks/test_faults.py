"""The kernel's complaints, as real kernels log them. How the logs were made: tests/unit/data/kernellog/README.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.checks.faults import SIGNS, find_faults, fingerprint, sign_of, taint_fault
from harness.checks.kmemleak import parse_kmemleak
from harness.checks.log_records import LogRecord, parse_console, parse_records
from harness.results.types import Fault

LOGS = Path(__file__).parents[1] / "data" / "kernellog"
CONSOLES = Path(__file__).parents[1] / "data" / "console"


def faults_in(name: str) -> list[Fault]:
    return find_faults(parse_records((LOGS / name).read_bytes().splitlines()))


def faults_of(text: str) -> list[Fault]:
    return find_faults(parse_console(text.strip("\n").split("\n")))


# What each log holds: the kinds in order, words of the first title, and the first fingerprint.
PROVOKED = [
    ("warn-5.10", ["WARN"], r"mm/vmalloc\.c:\d+ __vunmap", "WARN: __vunmap"),
    ("warn-6.1", ["WARN"], r"mm/vmalloc\.c:\d+ __vunmap", "WARN: __vunmap"),
    ("warn-7.2", ["WARN"] * 2, r"mm/vmalloc\.c:\d+ at remove_vm_area", "WARN: remove_vm_area < vfree"),
    ("warn-6.12-arm64", ["WARN"] * 2, r"mm/vmalloc\.c:\d+ remove_vm_area", "WARN: remove_vm_area < vfree"),
    ("bug-6.12-arm64", ["BUG", "WARN"], r"kernel BUG at kernel/cred\.c", "BUG: __put_cred"),
    ("opcode-6.12-arm64", ["oops"], "^Internal error: Oops - Undefined", "oops: __arm64_sys_getppid"),
    ("paging-6.12-arm64", ["oops"], "^Unable to handle kernel paging request", "oops: __arm64_sys_getppid"),
    ("refcount-6.12-arm64", ["refcount"], "underflow; use-after-free", "refcount: refcount_t: underflow"),
    ("warn-6.12-s390x", ["WARN"] * 2, r"mm/vmalloc\.c:\d+ remove_vm_area", "WARN: remove_vm_area < vfree"),
    ("bug-6.12-s390x", ["BUG"], r"kernel BUG at kernel/cred\.c", "BUG: __put_cred"),
    ("opcode-6.12-s390x", ["oops"], "^illegal operation: 0001 ilc:1", "oops: __s390x_sys_getppid"),
    ("paging-6.12-s390x", ["oops"], "^Unable to handle kernel pointer dereference", "oops: __s390x_sys_getppid"),
    ("refcount-6.12-s390x", ["refcount"], "underflow; use-after-free", "refcount: refcount_t: underflow"),
    ("warn-6.12-riscv64", ["WARN"] * 2, r"mm/vmalloc\.c:\d+ remove_vm_area", "WARN: remove_vm_area < vfree"),
    ("null-6.12-riscv64", ["oops"], "^Unable to handle kernel access to user memory", "oops: __riscv_sys_getppid"),
    ("paging-6.12-riscv64", ["oops"], "^Unable to handle kernel paging request", "oops: __riscv_sys_getppid"),
    ("refcount-6.12-riscv64", ["refcount"], "underflow; use-after-free", "refcount: refcount_t: underflow"),
    ("warn-6.12-ppc64el", ["WARN"] * 2, r"mm/vmalloc\.c:\d+ remove_vm_area", "WARN: remove_vm_area < vfree"),
    ("bug-6.12-ppc64el", ["BUG"], r"kernel BUG at kernel/cred\.c", "BUG: __put_cred"),
    ("null-6.12-ppc64el", ["oops"], "^BUG: Kernel NULL pointer dereference on read", "oops: sys_getppid"),
    ("opcode-6.12-ppc64el", ["oops"], "^Oops: Exception in kernel mode, sig: 4", "oops: sys_getppid"),
    ("paging-6.12-ppc64el", ["oops"], "^BUG: Unable to handle kernel data access", "oops: sys_getppid"),
    ("refcount-6.12-ppc64el", ["refcount"], "underflow; use-after-free", "refcount: refcount_t: underflow"),
    ("warn-6.12-armhf", ["WARN"] * 2, r"mm/vmalloc\.c:\d+ remove_vm_area", "WARN: remove_vm_area < vfree"),
    ("bug-6.12-armhf", ["BUG"], r"kernel BUG at kernel/cred\.c", "BUG: __put_cred"),
    ("opcode-6.12-armhf", ["oops"], "^Internal error: Oops - undefined instruction: 0", "oops: sys_getppid"),
    ("paging-6.12-armhf", ["oops"], "^Unable to handle kernel paging request", "oops: sys_getppid"),
    ("refcount-6.12-armhf", ["refcount"], "underflow; use-after-free", "refcount: refcount_t: underflow"),
    ("bug-5.10", ["BUG"], r"kernel BUG at kernel/cred\.c", "BUG: __put_cred"),
    ("bug-6.1", ["BUG"], r"kernel BUG at kernel/cred\.c", "BUG: __put_cred"),
    ("bug-7.2", ["BUG"], r"kernel BUG at kernel/cred\.c", "BUG: __put_cred"),
    ("null-5.10", ["oops"], "kernel NULL pointer dereference", "oops: __do_sys_getppid"),
    ("null-6.1", ["oops"], "kernel NULL pointer dereference", "oops: __do_sys_getppid"),
    ("null-7.2", ["oops"], "kernel NULL pointer dereference", "oops: __do_sys_getppid"),
    ("opcode-6.1", ["oops"], "^invalid opcode: 0000", "oops: __do_sys_getppid"),
    ("opcode-7.2", ["oops"], "^Oops: invalid opcode: 0000", "oops: __do_sys_getppid"),
    ("divide-6.1", ["oops"], "^divide error: 0000", "oops: __do_sys_getppid"),
    ("gpf-5.10", ["GPF"], "^general protection fault", "GPF: __do_sys_getppid"),
    ("gpf-6.1", ["GPF"], "^general protection fault", "GPF: __do_sys_getppid"),
    ("gpf-7.2", ["GPF"], "^Oops: general protection fault", "GPF: __do_sys_getppid"),
    ("list-6.1", ["list corruption"], "^list_add corruption", "list corruption: list_add corruption. next"),
    ("list-6.1-debug", ["list corruption"], "^list_add corruption", "list corruption: list_add corruption. next"),
    ("list-7.2", ["list corruption"], "^list_add corruption", "list corruption: list_add corruption. next"),
    ("refcount-5.10", ["refcount"], "underflow; use-after-free", "refcount: refcount_t: underflow"),
    ("refcount-6.1", ["refcount"], "underflow; use-after-free", "refcount: refcount_t: underflow"),
    ("refcount-6.1-debug", ["refcount"], "underflow; use-after-free", "refcount: refcount_t: underflow"),
    ("refcount-7.2", ["refcount"], "underflow; use-after-free", "refcount: refcount_t: underflow"),
    ("soft-lockup-6.1", ["soft lockup"] * 4, r"CPU#0 stuck for \d+s", "soft lockup: __do_sys_getppid"),
    ("soft-lockup-7.2", ["soft lockup"] * 4, r"CPU#0 stuck for \d+s", "soft lockup: __do_sys_getppid"),
    ("rcu-stall-6.1", ["RCU stall"] * 2, "rcu_preempt detected stalls", "RCU stall: __do_sys_getppid"),
    ("hung-task-5.10", ["hung task"] * 3, "blocked for more than 1 seconds", "hung task: INFO: task init:N"),
    ("hung-task-6.1", ["hung task"] * 3, "blocked for more than 1 seconds", "hung task: INFO: task init:N"),
    ("hung-task-7.2", ["hung task"] * 3, "blocked for more than 1 seconds", "hung task: INFO: task init:N"),
    ("atomic-6.1", ["scheduling while atomic"], "init/82/0x00000002", "scheduling while atomic: BUG"),
    ("atomic-7.2", ["scheduling while atomic"], "init/99/0x00000002", "scheduling while atomic: BUG"),
    ("allocation-6.1", ["allocation failure"], r"order:10, mode:0xa20\(GFP_ATOMIC\)", "allocation failure: init"),
    ("allocation-7.2", ["allocation failure"], r"order:10, mode:0x820\(GFP_ATOMIC\)", "allocation failure: init"),
    ("bad-page-6.1", ["bad page"], "Bad page state in process init", "bad page: free_pcppages_bulk"),
    ("bad-page-7.2", ["bad page"], "Bad page state in process init", "bad page: __free_frozen_pages"),
    (
        "slab-6.1",
        ["slab corruption"],
        r"kmalloc-64 \(Not tainted\): Right Redzone",
        "slab corruption: __do_sys_getppid",
    ),
    ("slab-7.2", ["slab corruption", "WARN"], r"kmalloc-64 \(Not tainted\): Object", "slab corruption: "),
    ("kfence-7.2", ["KFENCE"] * 4, "use-after-free read in __do_sys_getppid", "KFENCE: __do_sys_getppid"),
    ("ubsan-7.2", ["UBSAN"], "array-index-out-of-bounds", "UBSAN: UBSAN: array-index-out-of-bounds"),
    ("kasan-6.1-debug", ["KASAN"], "use-after-free in __do_sys_getppid", "KASAN: __do_sys_getppid"),
    ("lock-order-6.1-debug", ["lockdep"], "possible circular locking dependency", "lockdep: __do_sys_getppid"),
    ("lock-held-6.1-debug", ["lockdep"], "lock held when returning to user space", "lockdep: WARNING: lock held"),
    (
        "rcu-usage-6.1-debug",
        ["lockdep"] * 2,
        "suspicious RCU usage",
        "lockdep: find_task_by_pid_ns < find_task_by_vpid",
    ),
]


@pytest.mark.parametrize(("name", "kinds", "title", "mark"), PROVOKED, ids=[row[0] for row in PROVOKED])
def test_a_provoked_fault_is_found_named_and_nothing_else(name: str, kinds: list[str], title: str, mark: str) -> None:
    found = faults_in(f"{name}.kmsg")
    assert [fault.kind for fault in found] == kinds
    assert re.search(title, found[0].title)
    assert found[0].fingerprint.startswith(mark)


def test_every_log_is_looked_at() -> None:
    known = {f"{row[0]}.kmsg" for row in PROVOKED}
    assert {path.name for path in LOGS.glob("*.kmsg")} == known
    assert len(list((LOGS / "clean").glob("*.kmsg"))) >= 15


@pytest.mark.parametrize("path", sorted((LOGS / "clean").glob("*.kmsg")), ids=lambda path: path.stem)
def test_a_clean_log_has_no_fault(path: Path) -> None:
    records = parse_records(path.read_bytes().splitlines())
    assert len(records) > 100
    assert find_faults(records) == []


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("warn-6.1", "------------[ cut here ]------------", "---[ end trace 0000000000000000 ]---"),
        ("list-6.1", "list_add corruption.", "---[ end trace 0000000000000000 ]---"),
        ("kasan-6.1-debug", "=====", "====="),
        ("null-7.2", "BUG: kernel NULL pointer", "---[ end trace 0000000000000000 ]---"),
        ("rcu-stall-6.1", "rcu: INFO:", " </TASK>"),
        ("lock-held-6.1-debug", "=====", " #0: ffffffff82ad1128 (text_mutex)"),
    ],
)
def test_the_excerpt_is_the_whole_report(name: str, first: str, last: str) -> None:
    excerpt = faults_in(f"{name}.kmsg")[0].excerpt.split("\n")
    assert excerpt[0].startswith(first)
    assert any(line.startswith(last) for line in excerpt[-3:])
    assert any("__do_sys_getppid" in line for line in excerpt) or name in (
        "warn-6.1",
        "list-6.1",
        "lock-held-6.1-debug",
    )


def test_a_long_report_is_cut() -> None:
    (fault,) = faults_in("lock-order-6.1-debug.kmsg")
    assert len(fault.excerpt.split("\n")) <= 90


def test_a_fault_has_the_same_fingerprint_whenever_it_is_seen() -> None:
    assert len({fault.fingerprint for fault in faults_in("soft-lockup-6.1.kmsg")}) == 1
    assert len({fault.fingerprint for fault in faults_in("hung-task-7.2.kmsg")}) == 1


def test_a_panic_is_a_fault() -> None:
    log = (CONSOLES / "sysrq-panic.log").read_bytes().decode(errors="replace").splitlines()
    from harness.vm.console import clean

    (fault,) = find_faults(parse_console(clean(line) for line in log))
    assert fault.kind == "panic"
    assert "sysrq_handle_crash" in fault.fingerprint


@pytest.mark.parametrize(
    ("name", "kind", "fingerprint"),
    [
        ("bug-riscv64", "BUG", "BUG: __put_cred"),
        ("oops-riscv64", "oops", "oops: __riscv_sys_getppid"),
        ("hard-lockup-ppc64el", "hard lockup", "hard lockup: decrementer_set_next_event < "),
    ],
)
def test_a_fault_on_the_console_of_another_architecture(name: str, kind: str, fingerprint: str) -> None:
    (fault,) = faults_of((CONSOLES / f"{name}.log").read_text())
    assert fault.kind == kind
    assert fault.fingerprint.startswith(fingerprint)


def test_a_panic_that_an_oops_ends_in_is_part_of_it() -> None:
    records = parse_records((LOGS / "null-6.1.kmsg").read_bytes().splitlines())
    end = LogRecord("Kernel panic - not syncing: Fatal exception", records[-1].usec + 10)
    (fault,) = find_faults([*records, end])
    assert fault.kind == "oops"
    assert fault.excerpt.split("\n")[-1] == end.text


# Kinds that no kernel at hand reports, in the words of the kernel's source.
FROM_SOURCE = {
    # Linux kernel/kcsan/report.c, print_report()
    "KCSAN": """
[   10.000001] ==================================================================
[   10.000002] BUG: KCSAN: data-race in htab_map_update_elem / htab_map_delete_elem
[   10.000003]
[   10.000004] write to 0xffff888009ff5540 of 8 bytes by task 84 on cpu 1:
[   10.000005]  htab_map_update_elem+0x1f/0x90
[   10.000006]  bpf_map_update_value+0x12/0x40
[   10.000007]
[   10.000008] Reported by Kernel Concurrency Sanitizer on:
[   10.000009] ==================================================================
""",
    # Linux mm/kmsan/report.c, kmsan_report()
    "KMSAN": """
[   10.000001] =====================================================
[   10.000002] BUG: KMSAN: uninit-value in htab_map_update_elem+0x1f/0x90
[   10.000003]  htab_map_update_elem+0x1f/0x90
[   10.000009] =====================================================
""",
    # Linux kernel/watchdog_hld.c v5.10, watchdog_overflow_callback(): pr_fmt is "NMI watchdog: "
    "hard lockup": """
[   10.000001] NMI watchdog: Watchdog detected hard LOCKUP on cpu 1
[   10.000002] Modules linked in:
[   10.000003] RIP: 0010:native_queued_spin_lock_slowpath+0x60/0x1d0
[   10.000004] Call Trace:
[   10.000005]  _raw_spin_lock+0x1a/0x20
[   10.000006]  htab_map_update_elem+0x1f/0x90
""",
    # Linux kernel/workqueue.c, wq_watchdog_timer_fn()
    "workqueue lockup": "[   10.000001] BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 33s!",
    # Linux kernel/irq/spurious.c, __report_bad_irq()
    "IRQ": """
[   10.000001] irq 16: nobody cared (try booting with the "irqpoll" option)
[   10.000002] Call Trace:
[   10.000003]  __report_bad_irq+0x35/0xa7
""",
    # Linux arch/x86/kernel/nmi.c, unknown_nmi_error()
    "NMI": "[   10.000001] Uhhuh. NMI received for unknown reason 21 on CPU 0.",
    # Linux mm/kmemleak.c, kmemleak_scan()
    "kmemleak": "[   10.000001] kmemleak: 2 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
    # Linux kernel/sched/core.c, __might_resched()
    "sleeping in atomic": """
[   10.000001] BUG: sleeping function called from invalid context at kernel/locking/mutex.c:282
[   10.000002] in_atomic(): 1, irqs_disabled(): 0, non_block: 0, pid: 81, name: init
[   10.000003] Call Trace:
[   10.000004]  __might_resched+0x100/0x130
[   10.000005]  mutex_lock+0x1c/0x50
[   10.000006]  map_freeze+0x1c/0x50
""",
    # Linux lib/smp_processor_id.c, check_preemption_disabled()
    "preemptible": """
[   10.000001] BUG: using smp_processor_id() in preemptible [00000000] code: init/81
[   10.000002] caller is array_map_alloc+0x1f/0x90
""",
    # Linux kernel/locking/spinlock_debug.c, spin_dump()
    "lockdep": "[   10.000001] BUG: spinlock bad magic on CPU#0, init/81",
    # Linux arch/x86/kernel/traps.c, exc_double_fault()
    "oops": "[   10.000001] PANIC: double fault, error_code: 0x0",
    # Linux net/core/dev.c, netdev_wait_allrefs_any()
    "refcount": "[   10.000001] unregister_netdevice: waiting for veth0 to become free. Usage count = 2",
    # Linux mm/memory.c, check_bytes... exit_mmap(): check_mm()
    "bad page": "[   10.000001] BUG: Bad rss-counter state mm:00000000a1b2c3d4 type:MM_ANONPAGES val:1",
    # Linux lib/list_debug.c with CONFIG_DEBUG_LIST alone: a WARN
    "list corruption": """
[   10.000001] ------------[ cut here ]------------
[   10.000002] list_del corruption. prev->next should be ffff888009ff5540, but was 0000000000000000
[   10.000003] WARNING: CPU: 0 PID: 81 at lib/list_debug.c:59 __list_del_entry_valid+0x1f/0x90
[   10.000004] ---[ end trace 0000000000000000 ]---
""",
    # Linux lib/ubsan.c before v5.7, ubsan_prologue(): no mark, rules around it
    "UBSAN": """
[   10.000001] ================================================================================
[   10.000002] UBSAN: Undefined behaviour in kernel/bpf/hashtab.c:12:3
[   10.000003] index 7 is out of range for type 'int [4]'
[   10.000004] Call Trace:
[   10.000005]  htab_map_update_elem+0x1f/0x90
[   10.000009] ================================================================================
""",
    "lost records": "[    0.000000] harness: the kernel's log buffer overran, records were lost",
}


@pytest.mark.parametrize("kind", FROM_SOURCE)
def test_what_no_kernel_at_hand_reports_is_known_from_its_source(kind: str) -> None:
    (fault,) = faults_of(FROM_SOURCE[kind])
    assert fault.kind == kind


def test_every_kind_is_tried() -> None:
    tried = {kind for row in PROVOKED for kind in row[1]} | set(FROM_SOURCE) | {"panic"}
    assert {sign.kind for sign in SIGNS} == tried


@pytest.mark.parametrize(
    "line",
    [
        "traps: a.out[93] general protection fault ip:7f0cb3682f70 sp:7ffd22dd4b38 error:0 in libc.so",
        "python3[93]: segfault at 10 ip 00007f0cb3682f70 sp 00007ffd22dd4b38 error 4 in libffi.so",
        "init: page allocation failure: order:10, mode:0xcc0(GFP_KERNEL), nodemask=(null),cpuset=/,mems_allowed=0",
        "Out of memory: Killed process 93 (init) total-vm:1234kB",
        "clocksource: timekeeping watchdog on CPU0: Marking clocksource 'tsc' as unstable because of its skew",
        "hrtimer: interrupt took 17289020 ns",
        "spectre_v2: WARNING: Unprivileged eBPF is enabled with eIBRS on, data leaks possible",
        "FAULT_INJECTION: forcing a failure.",
        "sched: RT throttling activated",
        "WARNING: The mand mount option has been deprecated",
        "rcu: RCU calculated value of scheduler-enlistment delay is 25 jiffies.",
        "watchdog: Delayed init of the lockup detector failed: 0",
        "------------[ cut",
    ],
)
def test_other_lines_are_not_faults(line: str) -> None:
    assert sign_of(line) is None
    assert find_faults([LogRecord(line, 10)]) == []


def test_output_of_programs_is_not_a_fault() -> None:
    assert find_faults(parse_records([b"12,355,9802020,-;BUG: KASAN: use-after-free in nothing+0x1/0x2"])) == []
    assert len(find_faults(parse_records([b"4,355,9802020,-;BUG: KASAN: use-after-free in nothing+0x1/0x2"]))) == 1


def test_a_report_of_an_unknown_kind_is_a_fault_all_the_same() -> None:
    (fault,) = find_faults([LogRecord("------------[ cut here ]------------", 1), LogRecord("something new", 2)])
    assert (fault.kind, fault.title) == ("WARN", "something new")


@pytest.mark.parametrize("lines", [["------------[ cut here ]------------"], ["=" * 60], []])
def test_a_log_that_ends_early_is_read(lines: list[str]) -> None:
    assert len(find_faults([LogRecord(line, 1) for line in lines])) == ("cut here" in "".join(lines))


def test_records_are_parsed_as_the_kernel_documents_them() -> None:
    raw = b"6,339,5140900,-,caller=T1;a tab\\x09and a\\x0anew line\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n"
    assert parse_records([raw, b"30,340,5690716,-;udevd[80]: starting"]) == [
        LogRecord("a tab\tand a", 5140900, 339, 6, 0),
        LogRecord("new line", 5140900, 339, 6, 0),
        LogRecord("udevd[80]: starting", 5690716, 340, 6, 3),
    ]


@pytest.mark.parametrize("raw", [b"", b"no record", b"6,1;two fields", b"a,b,c,-;text"])
def test_a_malformed_record_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="is not a record"):
        parse_records([raw])


def test_a_console_is_parsed_with_callers_and_without_programs() -> None:
    lines = ["[    1.500000][    T1] one", "a program's line", "<4>[   12.000001] two"]
    assert parse_console(lines) == [LogRecord("one", 1_500_000), LogRecord("two", 12_000_001)]


def test_a_console_without_stamps_is_taken_whole() -> None:
    assert [record.text for record in parse_console(["one", "two"])] == ["one", "two"]


def test_a_fingerprint_leaves_out_what_differs_between_builds() -> None:
    frames = [
        "dump_stack_lvl+0x1/0x2",
        "htab_free.isra.0.cold+0x1/0x2",
        "asm_exc_page_fault+0x1/0x2",
        "bpf_map_put+0x1/0x2",
    ]
    assert fingerprint("WARN", "title", frames) == "WARN: htab_free < bpf_map_put"
    assert fingerprint("WARN", "at 0xffff1234 of 17", []) == "WARN: at N of N"


@pytest.mark.parametrize(
    ("before", "after", "explained", "letters"),
    [
        (0, 0, False, None),
        (512, 512, False, None),
        (0, 512, True, None),
        (0, 512, False, "W"),
        (0, 512 | 1 << 2, True, "S"),
        (512, 512 | 1 << 1 | 1 << 3, False, "F,R"),
        (0, 1 | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 15 | 1 << 18, False, None),
        (0, 1 << 12 | 1 << 3, False, "R"),
        (0, 1 << 40, False, "40"),
    ],
)
def test_a_taint_without_another_fault_is_a_fault(
    before: int, after: int, explained: bool, letters: str | None
) -> None:
    fault = taint_fault(before, after, explained=explained)
    assert (fault.fingerprint if fault else None) == (f"taint: {letters}" if letters else None)


# Linux mm/kmemleak.c, print_unreferenced(), as 6.1 prints it.
KMEMLEAK = """unreferenced object 0xffff888003a5b000 (size 4096):
  comm "swapper/0", pid 1, jiffies 4294892298 (age 40.210s)
  hex dump (first 32 bytes):
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................
  backtrace:
    [<ffffffff8120f3a4>] kmalloc_trace+0x24/0x90
    [<ffffffff82a1f3a4>] some_init+0x24/0x90
unreferenced object 0xffff888009ff5540 (size 64):
  comm "init", pid 81, jiffies 4294904567 (age 8.210s)
  hex dump (first 32 bytes):
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................
  backtrace:
    [<ffffffff814a80eb>] __kmem_cache_alloc_node+0x105/0x11b
    [<ffffffff8120f3a4>] __kmalloc+0x24/0x90
    [<ffffffff811ef3a4>] htab_map_alloc+0x11/0x90
    [<ffffffff811df3a4>] map_create+0x22/0x90
"""


def test_kmemleaks_report_is_split_into_objects_since_the_start_of_the_test() -> None:
    (fault,) = parse_kmemleak(KMEMLEAK, 4294900000)
    assert fault.kind == "kmemleak"
    assert fault.title == 'unreferenced object of 64 bytes, allocated by "init"'
    assert fault.fingerprint == "kmemleak: htab_map_alloc < map_create"
    assert fault.excerpt.startswith("unreferenced object 0xffff888009ff5540")
    assert len(parse_kmemleak(KMEMLEAK, 0)) == 2
    assert parse_kmemleak("", 0) == []
