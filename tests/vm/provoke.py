"""Makes a running kernel do what it never would by itself, so that it complains: patches a system call of a guest.

QEMU's debugger stub writes a few machine instructions over a system call that nobody needs; a process of the guest
then calls it. What is logged is the kernel's own report of a real fault, on any kernel, without a module.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from harness.errors import GuestProcessDied
from harness.remote.guest import Guest
from harness.vm.machine import Machine
from harness.vm.process import ClonedProcess, VngProcess

_NOTHING = bytes.fromhex("0f1f440000")
"""An instruction that does nothing, as long as a call."""
_PACKET = 1024
"""Bytes of memory that the debugger's stub is asked for at a time."""

GETPPID = 110
"""The number of the patched system call."""

_REGISTERS = {"rdi": b"\x48\xbf", "rsi": b"\x48\xbe", "rdx": b"\x48\xba", "rcx": b"\x48\xb9", "rax": b"\x48\xb8"}
_FUNCTIONS = (
    "__x64_sys_getppid",
    "__arm64_sys_getppid",
    "__s390x_sys_getppid",
    "__riscv_sys_getppid",
    "sys_getppid",
    "SyS_getppid",
)


def symbols(names: Iterable[str]) -> dict[str, int]:
    """Return the addresses of kernel symbols that there are. Runs in the guest."""
    wanted = set(names)
    found: dict[str, int] = {}
    with open("/proc/kallsyms") as file:  # noqa: PTH123 - runs in the guest
        for line in file:
            address, _, name = line.split()[:3]
            if name in wanted:
                found.setdefault(name, int(address, 16))
    return found


def extents(names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return the addresses of the kernel's functions that there are, and how long each is. Runs in the guest."""
    wanted = set(names)
    with open("/proc/kallsyms") as file:  # noqa: PTH123 - runs in the guest
        lines = sorted((int(address, 16), name) for address, kind, name, *_ in map(str.split, file) if kind in "tTwW")
    return {name: (at, after - at) for (at, name), (after, _) in pairwise(lines) if name in wanted}


def getppid(times: int = 1) -> None:
    """Call the patched system call. Runs in the guest."""
    for _ in range(times):
        os.getppid()


class Code:
    """Machine instructions of x86-64, put together step by step; symbols are addresses of the kernel's.

    Attributes:
        JUMP: A register, and the instructions that go to the address in it.
    """

    JUMP = "rax", "ff e0"

    def __init__(self, symbol: Callable[[str], int]) -> None:
        self._symbol = symbol
        self.bytes = b""

    def raw(self, text: str) -> Code:
        """Add instructions in hexadecimal."""
        self.bytes += bytes.fromhex(text)
        return self

    def load(self, register: str, value: int | str) -> Code:
        """Put a number, or a symbol's address, into a register."""
        number = self._symbol(value) if isinstance(value, str) else value
        self.bytes += _REGISTERS[register] + struct.pack("<Q", number & (1 << 64) - 1)
        return self

    def call(self, name: str, **registers: int | str) -> Code:
        """Call a function of the kernel."""
        for register, value in registers.items():
            self.load(register, value)
        return self.load("rax", name).raw("ff d0")

    def jump(self, name: str, **registers: int | str) -> Code:
        """End by going to a function of the kernel, as if it had been called in the first place."""
        for register, value in registers.items():
            self.load(register, value)
        through, instructions = self.JUMP
        return self.load(through, name).raw(instructions)

    def frame(self) -> Code:
        """Align the stack, as calls need it."""
        return self.raw("53 55 48 83 ec 08")  # push rbx; push rbp; sub rsp, 8

    def leave(self) -> Code:
        """Undo :meth:`frame` and return 0."""
        return self.raw("48 83 c4 08 5d 5b 31 c0 c3")


class ArmCode(Code):
    """Machine instructions of arm64; arguments of functions are x0, x1, ..."""

    JUMP = "x16", "00 02 1f d6"  # br x16

    def load(self, register: str, value: int | str) -> Code:
        """Put a number, or a symbol's address, into a register."""
        number = (self._symbol(value) if isinstance(value, str) else value) & (1 << 64) - 1
        for place in range(4):  # movz, and then movk for the other sixteen bits each
            kind = 0xF2800000 if place else 0xD2800000
            part = number >> 16 * place & 0xFFFF
            self.bytes += struct.pack("<I", kind | place << 21 | part << 5 | int(register.removeprefix("x")))
        return self


class S390Code(Code):
    """Machine instructions of s390x; arguments of functions are r2, r3, ..."""

    JUMP = "r1", "07 f1"  # br %r1

    def load(self, register: str, value: int | str) -> Code:
        """Put a number, or a symbol's address, into a register."""
        number = (self._symbol(value) if isinstance(value, str) else value) & (1 << 64) - 1
        place = int(register.removeprefix("r")) << 4
        # iihf and iilf: the upper and the lower half
        self.bytes += struct.pack(">BBIBBI", 0xC0, place | 8, number >> 32, 0xC0, place | 9, number & 0xFFFFFFFF)
        return self


class RiscvCode(Code):
    """Machine instructions of riscv64; arguments of functions are a0, a1, ..."""

    JUMP = "t1", "67 00 03 00"  # jr t1

    def load(self, register: str, value: int | str) -> Code:
        """Put a number, or a symbol's address, into a register."""
        number = (self._symbol(value) if isinstance(value, str) else value) & (1 << 64) - 1
        place = {"a": 10, "t": 5}[register[0]] + int(register[1:])
        # auipc register, 0; ld register, 12(register); a jump over the number that follows
        load = 12 << 20 | place << 15 | 3 << 12 | place << 7 | 0x03
        self.bytes += struct.pack("<IIIQ", place << 7 | 0x17, load, 0x00C0006F, number)
        return self


class PowerCode(Code):
    """Machine instructions of ppc64el; arguments of functions are r3, r4, ..."""

    # A function finds its data by its own address, which is in r12: mtctr r12; bctr
    JUMP = "r12", "a6 03 89 7d 20 04 80 4e"

    def load(self, register: str, value: int | str) -> Code:
        """Put a number, or a symbol's address, into a register."""
        number = (self._symbol(value) if isinstance(value, str) else value) & (1 << 64) - 1
        parts = [number >> place & 0xFFFF for place in (48, 32, 16, 0)]
        place = int(register.removeprefix("r"))
        itself = place << 21 | place << 16
        # lis; ori; sldi by 32; oris; ori
        high = (0x3C000000 | place << 21 | parts[0], 0x60000000 | itself | parts[1], 0x780007C6 | itself)
        self.bytes += struct.pack("<5I", *high, 0x64000000 | itself | parts[2], 0x60000000 | itself | parts[3])
        return self


class Arm32Code(Code):
    """Machine instructions of armhf; arguments of functions are r0, r1, ..."""

    JUMP = "r12", "1c ff 2f e1"  # bx r12

    def load(self, register: str, value: int | str) -> Code:
        """Put a number, or a symbol's address, into a register."""
        number = (self._symbol(value) if isinstance(value, str) else value) & (1 << 32) - 1
        for kind, part in ((0xE3000000, number & 0xFFFF), (0xE3400000, number >> 16)):  # movw, movt
            place = int(register.removeprefix("r")) << 12
            self.bytes += struct.pack("<I", kind | part >> 12 << 16 | place | part & 0xFFF)
        return self


_CODES = {
    "amd64": Code,
    "arm64": ArmCode,
    "s390x": S390Code,
    "riscv64": RiscvCode,
    "ppc64el": PowerCode,
    "armhf": Arm32Code,
}


class Kernel:
    """The kernel of a machine, open to be patched.

    Args:
        machine: Where; its agent is asked for addresses.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._guest = Guest(machine)
        self._stubs = 0

    @property
    def version(self) -> tuple[int, int]:
        """Its series."""
        major, minor = self._machine.release.split("-")[0].split(".")[:2]
        return int(major), int(minor)

    def symbol(self, name: str) -> int:
        """Return a symbol's address; with "a|b" that of the first that there is."""
        found = self._guest.call(symbols, name.split("|"))
        places = [found[one] for one in name.split("|") if one in found]
        assert places, f"{self._machine.release} has no {name}"
        return places[0]

    def code(self) -> Code:
        """Return instructions to fill in."""
        return _CODES[self._machine.spec.kernel.architecture](self.symbol)

    def patch(self, code: Code) -> None:
        """Write instructions over the system call."""
        self.write(self.symbol("|".join(_FUNCTIONS)), code.bytes)

    def write(self, address: int, data: bytes) -> None:
        """Write to the kernel's memory, whether it is read-only or not."""
        with self._stub() as stub:
            _command(stub, f"M{address:x},{len(data):x}:{data.hex()}")

    def read(self, address: int, size: int) -> bytes:
        """Read the kernel's memory."""
        data = b""
        with self._stub() as stub:
            while len(data) < size:
                length = min(size - len(data), _PACKET)
                data += bytes.fromhex(_command(stub, f"m{address + len(data):x},{length:x}", rb"[0-9a-f]+").decode())
        return data

    def forget_calls(self, callers: Iterable[str], callee: str) -> int:
        """Have functions of the kernel not call another one any more; return how many such calls there were.

        Args:
            callers: Functions; those that this kernel does not have, for the compiler put them into others, are
                passed over.
            callee: Called by its address, not through a pointer.
        """
        target = self.symbol(callee)
        forgotten = 0
        for at, size in self._guest.call(extents, list(callers)).values():
            code = self.read(at, size)
            for place in (match.start() for match in re.finditer(b"\xe8", code)):
                (distance,) = struct.unpack_from("<i", code.ljust(size + 4, b"\0"), place + 1)
                if at + place + 5 + distance == target:
                    self.write(at + place, _NOTHING)
                    forgotten += 1
        return forgotten

    @contextlib.contextmanager
    def _stub(self) -> Iterator[socket.socket]:
        """Connect to the debugger's stub; the machine stands still until it is left."""
        # A stub is gone some time after it was told to; the next one is not to be taken for it.
        self._stubs += 1
        with tempfile.TemporaryDirectory(prefix="kh-gdb-") as folder:
            # QEMU may be a user of its own, who owns nothing.
            Path(folder).chmod(0o777)
            path = Path(folder) / f"gdb-{self._stubs}"
            self._monitor(f"gdbserver unix:{path},server=on,wait=off")
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stub:
                _connect(stub, path)
                yield stub
                _command(stub, "D")
            self._monitor("gdbserver none")

    def call(self, times: int = 1) -> None:
        """Have a process of the guest call what was patched."""
        self._guest.call(getppid, times)

    def _monitor(self, command: str) -> None:
        request = {"execute": "human-monitor-command", "arguments": {"command-line": command}}
        line = json.dumps(request).encode() + b"\n"
        process = self._machine.process
        assert isinstance(process, (ClonedProcess, VngProcess))
        process.watch()
        assert process.monitor is not None
        process.monitor.connection.sendall(line)


def _connect(stub: socket.socket, path: Path) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            stub.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        else:
            return


def _command(stub: socket.socket, text: str, wanted: bytes = b"OK") -> bytes:
    """Send a command to the debugger's stub, and return its answer, which has to be what is wanted."""
    stub.sendall(f"${text}#{sum(text.encode()) % 256:02x}".encode())
    answer = b""
    # Before the answer may come the news that the machine was stopped, which begins with T.
    while (found := re.search(rb"\$(" + wanted + rb")#..", answer)) is None:
        more = stub.recv(4096)
        answer += more
        assert more, answer
        assert b"$E" not in answer, answer
    return found[1]


@dataclass(frozen=True)
class Recipe:
    """How a fault is provoked.

    Attributes:
        kind: What the fault is to be called.
        build: Returns the instructions.
        files: What is written to files of the guest before.
        times: How often the system call is made.
        parameters: Words of the kernel's command line that it takes.
        cpus: Virtual CPUs that it takes.
        dies: Whether the calling process dies of it.
    """

    kind: str
    build: Callable[[Kernel], Code]
    files: tuple[tuple[str, str], ...] = ()
    times: int = 1
    parameters: tuple[str, ...] = ()
    cpus: int = 1
    dies: bool = False


def _raise_preempt_count(kernel: Kernel) -> Code:
    """Return code that forbids preemption: `inc dword gs:[__preempt_count]`, part of pcpu_hot from 6.2 to 6.14."""
    in_hot = (6, 2) <= kernel.version < (6, 15)
    address = kernel.symbol("pcpu_hot") + 8 if in_hot else kernel.symbol("__preempt_count")
    return kernel.code().raw("65 ff 04 25" + struct.pack("<I", address & 0xFFFFFFFF).hex())


def _spin(kernel: Kernel, *, bits: int = 35) -> Code:
    """Spin with preemption forbidden for 2^35 ticks of the time stamp counter, some 10 s, or as many bits of them."""
    code = _raise_preempt_count(kernel)
    code.raw("0f 31 48 c1 e2 20 48 09 d0 48 89 c1")  # rdtsc; rcx = the time now
    code.raw(f"f3 90 0f 31 48 c1 e2 20 48 09 d0 48 29 c8 48 c1 e8 {bits:02x} 74 ec")  # until (now - rcx) >> bits
    lower = _raise_preempt_count(kernel).bytes.replace(b"\x65\xff\x04\x25", b"\x65\xff\x0c\x25")
    return code.raw(lower.hex()).raw("31 c0 c3")


_MALLOC = "__kmalloc_noprof|__kmalloc"
_GFP_KERNEL = 0xCC0
_MUTEX, _OTHER_MUTEX = "text_mutex", "bpf_stats_enabled_mutex"


def _atomic_allocation(kernel: Kernel) -> Code:
    # GFP_ATOMIC lost the bit __GFP_ATOMIC in v6.3: Linux kernel commit 2973d8229b78 ("mm: discard __GFP_ATOMIC").
    flags = 0x820 if kernel.version >= (6, 3) else 0xA20
    return kernel.code().jump("get_free_pages_noprof|__get_free_pages", rdi=flags, rsi=10)


def _red_zone(kernel: Kernel) -> Code:
    code = kernel.code().frame().call(_MALLOC, rdi=64, rsi=_GFP_KERNEL)
    return code.raw("c6 40 40 55 48 89 c7").call("kfree").leave()


def _bad_page(kernel: Kernel) -> Code:
    code = kernel.code().frame()
    code.call("__alloc_pages_noprof|__alloc_pages|__alloc_pages_nodemask", rdi=_GFP_KERNEL, rsi=0, rdx=0, rcx=0)
    code.raw("c7 40 30 05 00 00 00 48 89 c7")  # its _mapcount
    return code.call("__free_pages", rsi=0).leave()


def _use_after_free(kernel: Kernel) -> Code:
    code = kernel.code().frame().call(_MALLOC, rdi=64, rsi=_GFP_KERNEL)
    return code.raw("48 89 c3 48 89 c7").call("kfree").raw("8a 03").leave()


def _checked_use_after_free(kernel: Kernel) -> Code:
    code = kernel.code().frame().call(_MALLOC, rdi=64, rsi=_GFP_KERNEL)
    return code.raw("48 89 c3 48 89 c7").call("kfree").raw("48 89 df").call("__asan_load8").leave()


def _lock_order(kernel: Kernel) -> Code:
    code = kernel.code().frame()
    for first, second in ((_MUTEX, _OTHER_MUTEX), (_OTHER_MUTEX, _MUTEX)):
        code.call("mutex_lock_nested", rdi=first, rsi=0).call("mutex_lock_nested", rdi=second, rsi=0)
        code.call("mutex_unlock", rdi=second).call("mutex_unlock", rdi=first)
    return code.leave()


def _sleep_in_atomic(kernel: Kernel) -> Code:
    code = _raise_preempt_count(kernel).frame().call("mutex_lock_nested", rdi=_MUTEX, rsi=0)
    code.call("mutex_unlock", rdi=_MUTEX)
    lower = _raise_preempt_count(kernel).bytes.replace(b"\x65\xff\x04\x25", b"\x65\xff\x0c\x25")
    return code.raw(lower.hex()).leave()


def _out_of_bounds(kernel: Kernel) -> Code:
    """Report an index of 7 into an array, described as the compiler would (lib/ubsan.h)."""
    base = kernel.symbol("__log_buf") + 0x1C000  # at the end of the log's own memory, which the log has not reached
    integer = struct.pack("<HH6s", 0, 11, b"'int'\0")
    array = struct.pack("<HH10s", 0, 11, b"'int [4]'\0")
    file = b"provoked/by_the_harness.c\0"
    head = struct.pack("<QIIQQ", base + 0x60, 12, 3, base + 0x30, base + 0x48)
    data = head.ljust(0x30, b"\0") + array.ljust(0x18, b"\0") + integer.ljust(0x18, b"\0") + file
    kernel.write(base, data)
    return kernel.code().jump("__ubsan_handle_out_of_bounds", rdi=base, rsi=7)


_QUICK_WATCHDOG = (("/proc/sys/kernel/watchdog_thresh", "1"),)
_QUICK_STALL = (
    ("/proc/sys/kernel/watchdog", "0"),
    ("/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout", "3"),
)
_QUICK_HUNG_TASK = (("/proc/sys/kernel/hung_task_timeout_secs", "1"),)

RECIPES = {
    "warn": Recipe("WARN", lambda kernel: kernel.code().jump("vfree", rdi=0x1001)),
    "bug": Recipe("BUG", lambda kernel: kernel.code().jump("__put_cred", rdi="init_cred"), dies=True),
    "null": Recipe("oops", lambda kernel: kernel.code().raw("48 8b 04 25 00 00 00 00 c3"), dies=True),
    "opcode": Recipe("oops", lambda kernel: kernel.code().raw("0f 0b c3"), dies=True),
    "divide": Recipe("oops", lambda kernel: kernel.code().raw("31 c9 f7 f1 c3"), dies=True),
    "gpf": Recipe("GPF", lambda kernel: kernel.code().load("rax", 0xDEAD << 48).raw("48 8b 00 c3"), dies=True),
    "list": Recipe(
        "list corruption",
        lambda kernel: kernel.code().jump(
            "__list_add_valid_or_report|__list_add_valid", rdi="init_cred", rsi="init_task", rdx="init_cred"
        ),
        dies=True,
    ),
    "refcount": Recipe(
        "refcount", lambda kernel: kernel.code().raw("48 8d 7c 24 80").jump("refcount_warn_saturate", rsi=3)
    ),
    "soft-lockup": Recipe("soft lockup", _spin, files=_QUICK_WATCHDOG),
    "rcu-stall": Recipe("RCU stall", lambda kernel: _spin(kernel, bits=36), files=_QUICK_STALL),
    "hung-task": Recipe(
        "hung task",
        lambda kernel: kernel.code().jump("schedule_timeout_uninterruptible", rdi=1000),
        files=_QUICK_HUNG_TASK,
    ),
    "atomic": Recipe(
        "scheduling while atomic",
        lambda kernel: _raise_preempt_count(kernel).jump("schedule_timeout_uninterruptible", rdi=1),
    ),
    "allocation": Recipe("allocation failure", _atomic_allocation, times=80),
    # An empty table of interrupts, then an interrupt: the processor cannot even report a double fault.
    "triple-fault": Recipe(
        "panic", lambda kernel: kernel.code().raw("48 83 ec 10 31 c0 48 89 04 24 48 89 44 24 08 0f 01 1c 24 cc")
    ),
    "stack-overflow": Recipe("oops", lambda kernel: kernel.code().raw("e8 fb ff ff ff"), dies=True),
    "hard-lockup": Recipe("hung", lambda kernel: kernel.code().raw("fa eb fe")),  # cli; jmp itself
    "slab": Recipe("slab corruption", _red_zone, parameters=("slub_debug=FZPU",)),
    "bad-page": Recipe("bad page", _bad_page),
    "kfence": Recipe("KFENCE", _use_after_free, parameters=("kfence.sample_interval=1",), times=300),
    "ubsan": Recipe("UBSAN", _out_of_bounds),
    "kasan": Recipe("KASAN", _checked_use_after_free),
    "lock-order": Recipe("lockdep", _lock_order),
    "lock-held": Recipe("lockdep", lambda kernel: kernel.code().jump("mutex_lock_nested", rdi=_MUTEX, rsi=0)),
    "rcu-usage": Recipe("lockdep", lambda kernel: kernel.code().jump("find_task_by_vpid", rdi=1)),
    "sleep": Recipe("sleeping in atomic", _sleep_in_atomic),
    "preemptible": Recipe("preemptible", lambda kernel: kernel.code().jump("debug_smp_processor_id"), cpus=2),
    "forgotten": Recipe("kmemleak", lambda kernel: kernel.code().jump(_MALLOC, rdi=4000, rsi=_GFP_KERNEL)),
}
"""Faults by what provokes them."""


def _common(
    first: str,
    second: str,
    *,
    reads: tuple[str, str],
    undefined: str,
    below: str,
    nowhere: int = 0xDEAD << 48,
    used: str = "init_cred",
) -> dict[str, Recipe]:
    """Return the recipes that every other architecture has.

    Args:
        first: The register of a function's first argument.
        second: That of its second.
        reads: A register, and instructions that read from the address in it and return.
        undefined: An instruction that there is not.
        below: Instructions that put an address below the stack's end into the first register.
        nowhere: An address at which there is nothing.
        used: A symbol at which there is a number other than 0, as in credentials that are in use.
    """
    base, read = reads

    def reading(address: int) -> Recipe:
        return Recipe("oops", lambda kernel: kernel.code().load(base, address).raw(read), dies=True)

    return {
        "warn": Recipe("WARN", lambda kernel: kernel.code().jump("vfree", **{first: 0x1001})),
        "bug": Recipe("BUG", lambda kernel: kernel.code().jump("__put_cred", **{first: used}), dies=True),
        "null": reading(0),
        "opcode": Recipe("oops", lambda kernel: kernel.code().raw(undefined), dies=True),
        "paging": reading(nowhere),
        "refcount": Recipe(
            "refcount", lambda kernel: kernel.code().raw(below).jump("refcount_warn_saturate", **{second: 3})
        ),
    }


ARM_RECIPES = {
    **_common(
        "x0",
        "x1",
        reads=("x1", "20 00 40 f9 c0 03 5f d6"),  # ldr x0, [x1]; ret
        undefined="00 00 00 00",
        below="e0 03 00 91 00 00 02 d1",  # add x0, sp, #-128, as two instructions: mov x0, sp; sub x0, x0, #128
    ),
    # sub sp, sp, #256; str x0, [sp]; back to the first
    "stack-overflow": Recipe(
        "oops", lambda kernel: kernel.code().raw("ff 03 04 d1 e0 03 00 f9 fe ff ff 17"), dies=True
    ),
}
"""The same on arm64."""

S390_RECIPES = _common(
    "r2",
    "r3",
    reads=("r1", "e3 20 10 00 00 04 07 fe"),  # lg %r2,0(%r1); br %r14
    undefined="00 00",
    below="b9 04 00 2f a7 2b ff 80",  # lgr %r2,%r15; aghi %r2,-128
)
"""The same on s390x."""
del S390_RECIPES["null"]  # address 0 is memory there

RISCV_RECIPES = _common(
    "a0",
    "a1",
    reads=("a1", "03 b5 05 00 67 80 00 00"),  # ld a0, 0(a1); ret
    undefined="00 00",
    below="13 05 01 f8",  # addi a0, sp, -128
)
"""The same on riscv64."""

POWER_RECIPES = _common(
    "r3",
    "r4",
    reads=("r4", "00 00 64 e8 20 00 80 4e"),  # ld r3, 0(r4); blr
    undefined="00 00 00 00",
    below="00 fe 61 38",  # addi r3, r1, -512: below what a function may use of the stack without a frame
)
"""The same on ppc64el."""

ARM32_RECIPES = _common(
    "r0",
    "r1",
    reads=("r1", "00 00 91 e5 1e ff 2f e1"),  # ldr r0, [r1]; bx lr
    undefined="f0 00 f0 e7",
    below="80 00 4d e2",  # sub r0, sp, #128
    nowhere=0xDEAD << 16,
    used="vfree",  # a function: its kernels do not list their data in kallsyms
)
"""The same on armhf."""

_RECIPES = {
    "amd64": RECIPES,
    "arm64": ARM_RECIPES,
    "s390x": S390_RECIPES,
    "riscv64": RISCV_RECIPES,
    "ppc64el": POWER_RECIPES,
    "armhf": ARM32_RECIPES,
}


def has_symbol(machine: Machine, name: str) -> bool:
    """Return whether a kernel has a symbol, or with "a|b" one of them."""
    return bool(Guest(machine).call(symbols, name.split("|")))


def provoke(machine: Machine, name: str) -> None:
    """Provoke a fault; the machine has to be what its recipe takes."""
    kernel = Kernel(machine)
    recipe = _RECIPES[machine.spec.kernel.architecture][name]
    guest = Guest(machine)
    for path, text in recipe.files:
        guest.write(path, text)
    kernel.patch(recipe.build(kernel))
    if recipe.dies:
        with contextlib.suppress(GuestProcessDied):
            kernel.call(recipe.times)
    else:
        kernel.call(recipe.times)
