"""What programs are attached to other than through bpf(2): sockets, perf events; and what they need of the kernel.

Runs in the guest.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import threading

from harness.guest.api import syscalls

SO_ATTACH_BPF = 50
PERF_TYPE_SOFTWARE, PERF_TYPE_TRACEPOINT = 1, 2
PERF_COUNT_SW_PAGE_FAULTS = 2
PERF_SAMPLE_RAW = 1 << 10
PERF_FLAG_FD_CLOEXEC = 8
PERF_EVENT_IOC_ENABLE, PERF_EVENT_IOC_REFRESH, PERF_EVENT_IOC_SET_BPF = 0x2400, 0x2402, 0x00042408
"""Numbers of ioctls, without the bits of syscalls.IOCTL."""

_PERF_ATTR_SIZE = 112  # PERF_ATTR_SIZE_VER5: known to every kernel since 4.1
_TRACING = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")

_perf_event_open = syscalls.system_call(
    "perf_event_open", ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_ulong
)
_sockets: dict[int, tuple[socket.socket, socket.socket]] = {}


def socket_filter(prog_fd: int) -> int:
    """Attach a program to the receiving end of a new pair of datagram sockets; return that end's descriptor."""
    receiver, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.setblocking(False)
    receiver.setsockopt(socket.SOL_SOCKET, SO_ATTACH_BPF, prog_fd)
    _sockets[receiver.fileno()] = (receiver, sender)
    return receiver.fileno()


def socket_send(fd: int, data: bytes) -> bytes | None:
    """Send a datagram to such a socket; return the part that the filter let through, None when it dropped all."""
    receiver, sender = _sockets[fd]
    sender.send(data)
    try:
        return receiver.recv(len(data) + 1)
    except BlockingIOError:
        return None


def socket_close(fd: int) -> None:
    """Close both ends."""
    for end in _sockets.pop(fd):
        end.close()


def tracepoint(prog_fd: int, category: str, event: str) -> int:
    """Attach a program to a tracepoint through a perf event; return the event's descriptor."""
    try:
        with open(f"{tracing()}/events/{category}/{event}/id") as file:
            number = int(file.read())
    except FileNotFoundError:
        raise FileNotFoundError(2, "this kernel has no such tracepoint", f"{category}/{event}") from None
    return _perf_event(prog_fd, PERF_TYPE_TRACEPOINT, number, b"")


def tracing() -> str:
    """Return the folder of tracefs.

    Raises:
        FileNotFoundError: It is mounted nowhere.
    """
    for folder in _TRACING:
        if os.path.exists(f"{folder}/trace"):
            return folder
    raise FileNotFoundError(2, "tracefs is not mounted", _TRACING[0])


def add_kprobe_event(*, symbols: tuple[str, ...]) -> None:
    """Add a kprobe event on the first of some functions that takes one, and remove it again.

    Raises:
        OSError: tracefs is not mounted, or no function takes one.
    """
    path = f"{tracing()}/kprobe_events"
    for number, symbol in enumerate(symbols):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, f"p:harness_probe/{symbol} {symbol}\n".encode())
            os.write(fd, f"-:harness_probe/{symbol}\n".encode())
        except OSError:
            if number == len(symbols) - 1:
                raise
        else:
            return
        finally:
            os.close(fd)


def start_thread() -> int:
    """Start a thread in a child process, which that may kill; return the child's wait status."""
    child = os.fork()
    if not child:
        try:
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def run_on(cpu: int) -> None:
    """Run this process on one CPU from now on."""
    os.sched_setaffinity(0, [cpu])


def kprobe(prog_fd: int, symbol: str, *, at_return: bool) -> int:
    """Attach a program to a function of the kernel through a perf event (4.17 and later); return its descriptor."""
    with open("/sys/bus/event_source/devices/kprobe/type") as file:
        kind = int(file.read())
    return _perf_event(prog_fd, kind, int(at_return), symbol.encode() + b"\0")


def page_faults() -> int:
    """Return the descriptor of a perf event that each page fault of this process overflows."""
    attr = ctypes.create_string_buffer(_PERF_ATTR_SIZE)
    struct.pack_into("=IIQQ", attr, 0, PERF_TYPE_SOFTWARE, _PERF_ATTR_SIZE, PERF_COUNT_SW_PAGE_FAULTS, 1)
    return _open_perf_event(attr, process=0, cpu=-1)


def _open_perf_event(attr: ctypes.Array[ctypes.c_char], *, process: int, cpu: int) -> int:
    fd = _perf_event_open(ctypes.addressof(attr), process, cpu, -1, PERF_FLAG_FD_CLOEXEC)
    if fd < 0:
        raise syscalls.failed("perf_event_open")
    return fd


def _perf_event(prog_fd: int, kind: int, config: int, name: bytes) -> int:
    attr = ctypes.create_string_buffer(_PERF_ATTR_SIZE)
    held = ctypes.create_string_buffer(name)
    struct.pack_into("=IIQQQ", attr, 0, kind, _PERF_ATTR_SIZE, config, 1, PERF_SAMPLE_RAW)
    struct.pack_into("=I", attr, 48, 1)  # wakeup_events
    if name:
        struct.pack_into("=Q", attr, 56, ctypes.addressof(held))  # config1: the function's name
    # For every process, on the first CPU: such an event fires on all CPUs anyway.
    fd = _open_perf_event(attr, process=-1, cpu=0)
    try:
        fcntl.ioctl(fd, syscalls.IOCTL["write"] | PERF_EVENT_IOC_SET_BPF, prog_fd)
        fcntl.ioctl(fd, syscalls.IOCTL["none"] | PERF_EVENT_IOC_ENABLE, 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def interface(name: str) -> int:
    """Return the number of a network interface.

    Raises:
        OSError: There is none of that name.
    """
    for number, known in socket.if_nameindex():
        if known == name:
            return number
    raise OSError(19, "there is no such network interface", name)


_RTM_NEWLINK, _NLM_F_CREATE = 16, 0x605  # a request, acknowledged, that creates and does not replace
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 3, 18, 1, 2, 1


def make_interface_pair(first: str, second: str) -> None:
    """Make two network interfaces that are connected with each other (veth).

    Raises:
        OSError: The kernel refused, EOPNOTSUPP where its module veth is not loaded.
    """
    header = bytes(16)  # struct ifinfomsg
    peer = _attribute(_VETH_INFO_PEER, header + _attribute(_IFLA_IFNAME, second.encode() + b"\0"))
    info = _attribute(_IFLA_INFO_KIND, b"veth\0") + _attribute(_IFLA_INFO_DATA, peer)
    body = header + _attribute(_IFLA_IFNAME, first.encode() + b"\0") + _attribute(_IFLA_LINKINFO, info)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as link:
        link.send(struct.pack("=IHHII", 16 + len(body), _RTM_NEWLINK, _NLM_F_CREATE, 1, 0) + body)
        (error,) = struct.unpack_from("=i", link.recv(4096), 16)
    if error:
        raise OSError(-error, f"veth: {os.strerror(-error)}")


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def possible_cpus() -> int:
    """Return the number of possible CPUs: the number of values in an element of a per-CPU map."""
    with open("/sys/devices/system/cpu/possible") as file:
        last = file.read().strip().replace("-", ",").rpartition(",")[2]
    return int(last) + 1


def limit_locked_memory(size: int) -> None:
    """Set RLIMIT_MEMLOCK of this process, which limits its maps before 5.11."""
    import resource

    resource.setrlimit(resource.RLIMIT_MEMLOCK, (size, size))


def series_of(release: str) -> tuple[int, int]:
    """Return the two numbers that a release begins with: the name may follow them at once, as in 7.3-cloud-amd64."""
    major, _, rest = release.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return int(major), int(rest[:digits])


def expedite() -> None:
    """Make the kernel expedite its grace periods: from 4.19 on, changes of outer maps wait for them, some lookups too.

    Not on earlier kernels: nothing becomes faster there, and 4.12.4 was seen to stop forever with idle CPUs, while
    waiting to settle after processes had been killed; without this it never did.
    """
    if series_of(os.uname().release) < (4, 19):
        return
    # Where the first is on, as with CONFIG_PREEMPT_RT, the second is of no effect.
    for name, value in (("rcu_normal", "0"), ("rcu_expedited", "1")):
        try:
            with open(f"/sys/kernel/{name}", "w") as file:
                file.write(value)
        except OSError:
            return  # built for tiny machines (no grace periods to wait for)
