"""Every fault of the table, provoked on a real machine, each in a test of its own. Run by tests/faults/test_faults.py.

The tests do what goes wrong and say nothing of what is right: that is in the table. Functions of the guest bring along
what they use.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import signal
import struct
import threading
import time
from binascii import crc32
from pathlib import Path
from typing import Any

import pytest

from harness.testing import Guest
from harness.vm.machine import Machine
from tests.vm.provoke import has_symbol, provoke

MOST = Path("most-memory")


def pid() -> int:
    return os.getpid()


def report_memory() -> None:
    """Note this process's memory, in KiB: what one hostile answer cost."""
    status = Path("/proc/self/status").read_text()
    MOST.write_text(status.partition("VmHWM:")[2].split()[0])


@pytest.fixture(autouse=True)
def the_guest_is_fresh(guest: Guest) -> None:
    """Each test finds a machine that answers, whatever the test before it has done."""
    assert guest.call(pid)


# What a guest does to itself.


def sysrq(key: str, *settings: tuple[str, str]) -> None:
    for path, text in settings:
        Path(path).write_text(text)
    Path("/proc/sysrq-trigger").write_text(key)
    time.sleep(60)


def test_panic(guest: Guest) -> None:
    guest.call(sysrq, "c")


def test_panic_after_the_last_call(vm: Machine) -> None:
    from harness.guest import calls

    vm.new_process().begin(calls.Files.write_file, path="/proc/sysrq-trigger", data=b"c")
    assert vm.process.wait(60)


def test_panic_that_is_handled(guest: Guest) -> None:
    with contextlib.suppress(Exception):
        guest.call(sysrq, "c")


@pytest.mark.expects_fault("panic", reason="it is provoked")
def test_panic_that_is_expected(guest: Guest) -> None:
    with contextlib.suppress(Exception):
        guest.call(sysrq, "c")


def test_panic_that_waits(guest: Guest) -> None:
    guest.call(sysrq, "c", ("/proc/sys/kernel/panic", "0"), timeout=2)


def test_panic_with_a_silent_console(guest: Guest) -> None:
    guest.call(sysrq, "c", ("/proc/sys/kernel/printk", "0"))


def test_restart_by_sysrq(guest: Guest) -> None:
    guest.call(sysrq, "b")


def restart(command: int) -> None:
    ctypes.CDLL(None).reboot(command)
    time.sleep(60)


def test_reboot(guest: Guest) -> None:
    guest.call(restart, 0x01234567)


def test_power_off(guest: Guest) -> None:
    guest.call(restart, 0x4321FEDC)


def out_to(port: int, value: int) -> None:
    assert ctypes.CDLL(None).iopl(3) == 0
    code = mmap.mmap(-1, 4096, prot=7)
    code.write(b"\x66\xba" + port.to_bytes(2, "little") + b"\xb0" + bytes([value]) + b"\xee\xc3")
    ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
    time.sleep(60)


def test_chipset_reset(guest: Guest) -> None:
    guest.call(out_to, 0xCF9, 6)


def test_keyboard_controller_reset(guest: Guest) -> None:
    guest.call(out_to, 0x64, 0xFE)


def forge_a_panic() -> None:
    Path("/dev/console").write_text("Kernel panic - not syncing: FORGED\r\n")
    ctypes.CDLL(None).reboot(0x4321FEDC)
    time.sleep(60)


def test_forged_panic(guest: Guest) -> None:
    guest.call(forge_a_panic)


def stop_agent() -> None:
    for request in (0x4206, 0x4207):  # PTRACE_SEIZE, PTRACE_INTERRUPT
        ctypes.CDLL(None).ptrace(request, 1, 0, 0)
    time.sleep(60)


def test_agent_stopped(guest: Guest) -> None:
    guest.call(stop_agent, timeout=3)


def test_agent_stopped_and_handled(guest: Guest) -> None:
    with contextlib.suppress(Exception):
        guest.call(stop_agent, timeout=3)


def destroy_agent() -> None:
    if os.fork() != 0:
        time.sleep(60)
    ctypes.CDLL(None).ptrace(0x4206, 1, 0, 0)  # PTRACE_SEIZE: Debian's kernel 7.3 lets only a tracer write there
    with open("/proc/1/mem", "r+b", buffering=0) as memory:  # noqa: PTH123 - runs in the guest
        for line in Path("/proc/1/maps").read_text().splitlines():
            place, rights, *_ = line.split()
            if "x" in rights and "[v" not in line:
                start, end = (int(one, 16) for one in place.split("-"))
                with contextlib.suppress(OSError):
                    memory.seek(start)
                    memory.write(b"\xcc" * (end - start))
    os._exit(0)  # the agent meets its end when nobody traces it


def test_agent_destroyed(guest: Guest) -> None:
    guest.call(destroy_agent)


# What a function of the guest does to itself.


def sleep() -> None:
    print("last words before the hang")
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    time.sleep(60)


def test_hang(guest: Guest) -> None:
    guest.call(sleep, timeout=1)


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def test_process_stopped(guest: Guest) -> None:
    guest.call(stop_itself, timeout=1)


def die() -> None:
    print("last words before death", flush=True)
    os._exit(3)


def test_process_dies(guest: Guest) -> None:
    guest.call(die)


def eat() -> None:
    print("last words before the memory is gone")
    eaten = []
    while True:
        eaten.append(bytearray(b"x" * (1 << 20)))


def test_out_of_memory(guest: Guest) -> None:
    guest.call(eat)


def leave() -> bool:
    """Fork; return whether this is the child, in a group of its own: that of the test ends with the test."""
    pipe = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.write(pipe[1], b"!")
        return True
    os.read(pipe[0], 1)
    for end in pipe:
        os.close(end)
    return False


def leave_spinning() -> None:
    if leave():
        while True:
            pass


def test_process_left_spinning(guest: Guest) -> None:
    guest.call(leave_spinning)


def chatter(mebibytes: int) -> None:
    for number in range(mebibytes):
        print(number, "y" * ((1 << 20) - 1))


def test_much_is_printed(guest: Guest) -> None:
    guest.call(chatter, 24)
    assert "bytes are omitted here" in guest.outputs[0].stdout
    raise AssertionError(f"{len(guest.outputs[0].stdout)} characters were kept")


def raise_without_text() -> None:
    class WithoutText(Exception):
        def __str__(self) -> str:
            raise LookupError("no text today")

    raise WithoutText


def test_exception_without_text(guest: Guest) -> None:
    guest.call(raise_without_text)


def return_itself() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def test_value_that_contains_itself(guest: Guest) -> None:
    guest.call(return_itself)


# What this machine does to QEMU.


def signalled(vm: Machine, guest: Guest, number: int) -> None:
    os.kill(vm.process.pid(), number)
    guest.call(pid, timeout=1)


def test_qemu_killed(vm: Machine, guest: Guest) -> None:
    signalled(vm, guest, signal.SIGKILL)


def test_qemu_terminated(vm: Machine, guest: Guest) -> None:
    signalled(vm, guest, signal.SIGTERM)


def test_qemu_crashed(vm: Machine, guest: Guest) -> None:
    signalled(vm, guest, signal.SIGSEGV)


def test_qemu_stopped(vm: Machine, guest: Guest) -> None:
    signalled(vm, guest, signal.SIGSTOP)


attempts: list[None] = []


def test_qemu_killed_once(vm: Machine, guest: Guest) -> None:
    attempts.append(None)
    if len(attempts) == 1:
        signalled(vm, guest, signal.SIGKILL)
    assert guest.call(pid)


# What a hostile guest sends.


def link() -> tuple[mmap.mmap, int]:
    words = Path("/proc/cmdline").read_text().split()
    port = next(word.partition("=")[2] for word in words if word.startswith("harness.channel="))
    for device in Path("/sys/bus/pci/devices").iterdir():
        if [(device / name).read_text().strip() for name in ("vendor", "device")] == ["0x1af4", "0x1110"]:
            fd = os.open(device / "resource2", os.O_RDWR)
            return mmap.mmap(fd, 4 << 20), os.open(port, os.O_RDWR | os.O_NOCTTY)
    raise LookupError("no shared memory")


def put(memory: mmap.mmap, port: int, data: bytes) -> None:
    size = 1 << 20
    view = memoryview(memory)
    counters, ring, rest = view[128:256].cast("I"), view[2 * size : 3 * size], memoryview(data)
    while rest:
        written = counters[0]
        count = min(size - ((written - counters[16]) & 0xFFFFFFFF), len(rest))
        at = written % size
        first = min(count, size - at)
        ring[at : at + first], ring[: count - first] = rest[:first], rest[first:count]
        counters[0] = (written + count) & 0xFFFFFFFF
        rest = rest[count:]
        if count:
            os.write(port, b"!")
        else:
            time.sleep(0.0002)


def framed(kind: int, process: int, tag: int, payload: bytes) -> bytes:
    return struct.pack("<4sHHHHII", b"khw1", kind, process, tag, 0, len(payload), crc32(payload)) + payload


def silence_agent() -> None:
    for request in (0x4206, 0x4207):
        ctypes.CDLL(None).ptrace(request, 1, 0, 0)


def send(data: bytes) -> None:
    silence_agent()
    put(*link(), data)
    time.sleep(60)


def answer(kind: int, payload: bytes) -> None:
    silence_agent()
    to = link()
    put(*to, framed(kind, 2, 2, payload))  # the fixture's request was the first, to process 1
    time.sleep(60)


def test_noise(guest: Guest) -> None:
    guest.call(send, bytes(range(256)))


def test_frame_that_announces_too_much(guest: Guest) -> None:
    guest.call(send, struct.pack("<4sHHHHII", b"khw1", 2, 1, 1, 0, 0xFFFFFFFF, 0))


def claim() -> None:
    memory, port = link()
    counters = memoryview(memory)[128:256].cast("I")
    counters[0] = (counters[16] + 0x7FFFFFFF) & 0xFFFFFFFF
    os.write(port, b"!")
    time.sleep(60)


def test_ring_that_claims_too_much(guest: Guest) -> None:
    guest.call(claim)


def test_answer_that_cannot_be_read(guest: Guest) -> None:
    guest.call(answer, 2, b"?" + bytes(40))


def test_answer_to_nothing(guest: Guest) -> None:
    guest.call(send, framed(2, 9, 9, b"n"))


def test_event_of_nothing(guest: Guest) -> None:
    guest.call(answer, 4, b"n")


def swell(count: int) -> None:
    """Answer with a list of empty sets: 5 bytes each on the way, 216 in memory."""
    silence_agent()
    memory, port = link()
    head, unit = b"l" + struct.pack("<I", count * 200_000), b"e\0\0\0\0" * 200_000
    check = crc32(head)
    for _ in range(count):
        check = crc32(unit, check)
    put(memory, port, struct.pack("<4sHHHHII", b"khw1", 2, 2, 2, 0, 5 + count * len(unit), check) + head)
    for _ in range(count):
        put(memory, port, unit)
    time.sleep(60)


def test_answer_that_swells(guest: Guest) -> None:
    try:
        guest.call(swell, 60)
    finally:
        report_memory()


def ring_the_bell() -> None:
    silence_agent()
    _, port = link()
    while True:
        os.write(port, b"!" * 4096)


def test_endless_bell(guest: Guest) -> None:
    guest.call(ring_the_bell, timeout=3)


def start_a_frame() -> None:
    silence_agent()
    memory, port = link()
    put(memory, port, struct.pack("<4sHHHHII", b"khw1", 2, 2, 2, 0, 64 << 20, 0))
    while True:
        put(memory, port, b"x" * 4096)
        time.sleep(0.05)


def test_frame_without_end(guest: Guest) -> None:
    guest.call(start_a_frame, timeout=3)


# What the kernel does, provoked in its code.


def test_oops(vm: Machine) -> None:
    provoke(vm, "null")


def test_bug(vm: Machine) -> None:
    provoke(vm, "bug")


def test_list_corruption(vm: Machine) -> None:
    if not has_symbol(vm, "__list_add_valid_or_report|__list_add_valid"):
        pytest.skip("the kernel is built without CONFIG_DEBUG_LIST")
    provoke(vm, "list")


def test_stack_overflow(vm: Machine) -> None:
    provoke(vm, "stack-overflow")


def test_triple_fault(vm: Machine) -> None:
    provoke(vm, "triple-fault")


def inject_nmi(vm: Machine) -> None:
    process: Any = vm.process
    process.watch()
    process.monitor.connection.sendall(json.dumps({"execute": "inject-nmi"}).encode() + b"\n")
    # The kernel has it once QEMU has answered a later question.
    assert process.monitor.answers(20)


def test_nmi(vm: Machine, guest: Guest) -> None:
    inject_nmi(vm)
    assert guest.call(pid)


def test_nmi_that_panics(vm: Machine, guest: Guest) -> None:
    guest.write("/proc/sys/kernel/unknown_nmi_panic", "1")
    inject_nmi(vm)
    guest.call(sleep)


@pytest.mark.long
def test_hard_lockup(vm: Machine) -> None:
    from tests.vm.provoke import RECIPES, Kernel

    kernel = Kernel(vm)
    kernel.patch(RECIPES["hard-lockup"].build(kernel))
    Guest(vm).call(call_what_was_patched, timeout=5)


def call_what_was_patched() -> int:
    return os.getppid()


@pytest.mark.long
def test_soft_lockup(vm: Machine) -> None:
    provoke(vm, "soft-lockup")


# The kernel's thread for grace periods runs on the other processor: 7.2 speaks of no stall before that has looked.
@pytest.mark.long
@pytest.mark.vm(cpus=2)
def test_rcu_stall(vm: Machine) -> None:
    provoke(vm, "rcu-stall")


@pytest.mark.long
def test_hung_task(vm: Machine) -> None:
    provoke(vm, "hung-task")


def flood() -> None:
    Path("/proc/sys/kernel/printk_devkmsg").write_text("on\n")
    log = os.open("/dev/kmsg", os.O_WRONLY)
    for _ in range(3000):
        os.write(log, b"<15>" + 800 * b"x" + b"\n")
    os.close(log)


@pytest.mark.long
def test_log_overrun(guest: Guest) -> None:
    guest.call(flood)


def fill_the_root() -> None:
    with open("/big", "wb") as file:  # noqa: PTH123 - runs in the guest
        while True:
            file.write(b"x" * (1 << 20))


@pytest.mark.long
def test_root_is_full(guest: Guest) -> None:
    guest.call(fill_the_root)


def fork_without_end() -> None:
    while True:
        with contextlib.suppress(OSError):
            os.fork()


@pytest.mark.long
def test_fork_bomb(guest: Guest) -> None:
    guest.call(fork_without_end, timeout=8)


def leave_forking() -> None:
    if leave():
        fork_without_end()


@pytest.mark.long
def test_fork_bomb_left_behind(guest: Guest) -> None:
    guest.call(leave_forking)


def spin_at_the_highest_priority() -> None:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
    Path("/proc/sys/kernel/sched_rt_runtime_us").write_text("-1")
    while True:
        pass


@pytest.mark.long
def test_spins_at_the_highest_priority(guest: Guest) -> None:
    guest.call(spin_at_the_highest_priority, timeout=3)


def test_nothing_goes_wrong(guest: Guest) -> None:
    assert guest.call(pid)
