"""Parts of a kernel beyond bpf(2) that contracts look through: a kernel can be built or booted without any of them.

A missing part is never a failure: what needs it is not asked. Each has a probe that uses it as a contract does, and the
configuration symbol that brings it.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import E2BIG
from typing import Any

from harness.errors import GuestCallError
from harness.features.capability import Availability, Capability, Probe, ProbeResult
from harness.guest import calls
from harness.guest.api import asm, uapi
from harness.remote.bpf import Bpf
from harness.remote.command import BpfError
from harness.remote.sysctl import JIT, UNPRIVILEGED, path_of, read, sysctl
from harness.util.errnos import errno_name

ATTACHED: dict[str, dict[str, Any]] = {
    "cgroup_sock_addr": {"expected_attach_type": "cgroup_inet4_connect"},
    "cgroup_sockopt": {"expected_attach_type": "cgroup_getsockopt"},
    "sk_lookup": {"expected_attach_type": "sk_lookup"},
    "syscall": {"prog_flags": uapi.SLEEPABLE},
    "netfilter": {"expected_attach_type": "netfilter"},
    "cgroup_skb": {"expected_attach_type": "cgroup_inet_egress"},
}
"""What programs of some types are loaded with."""

_SPECTRE = "/sys/devices/system/cpu/vulnerabilities/spectre_v1"

BPFFS, CGROUPS = "/sys/fs/bpf", "/sys/fs/cgroup"


def works(attempt: Callable[[Bpf], object], evidence: str) -> Probe:
    """The part is there if an attempt succeeds.

    Args:
        attempt: Uses the part.
        evidence: What it did.
    """

    def probe(bpf: Bpf) -> ProbeResult:
        try:
            attempt(bpf)
        except BpfError as error:
            return ProbeResult(Availability.NO, f"{error.command}: {error.name}")
        except GuestCallError as error:
            return ProbeResult(Availability.NO, errno_name(error.errno) if error.errno else error.type_name)
        return ProbeResult(Availability.YES, evidence)

    return probe


def reads(path: str) -> Probe:
    """The part is there if a file of it can be read."""
    return works(lambda bpf: bpf.commands.ask(f"read of {path}", calls.Files.read_file, path=path), f"{path} is there")


def loads_type(type_: str) -> Probe:
    """Programs of this type can be loaded."""

    def probe(bpf: Bpf) -> ProbeResult:
        try:
            # Every type may return 1; some may not return 0, others nothing above 1.
            bpf.prog(type_, asm.return_(1), log_level=0, **ATTACHED.get(type_, {})).close()
        except BpfError as error:
            return ProbeResult(Availability.NO, f"{error.command}: {error.name}")
        return ProbeResult(Availability.YES, "accepted")

    return probe


def _knows_tracing(bpf: Bpf) -> ProbeResult:
    """A kernel that knows the type looks into the program and then misses the function that it traces."""
    try:
        bpf.prog("tracing", asm.return_(0)).close()
    except BpfError as error:
        said = error.log.strip().splitlines()
        return ProbeResult(
            Availability.YES if said else Availability.NO, said[0] if said else f"{error.command}: {error.name}"
        )
    return ProbeResult(Availability.YES, "accepted")


def _with_compiler(bpf: Bpf) -> None:
    with sysctl(bpf.commands, JIT, "1"):
        pass


def _translated(bpf: Bpf) -> None:
    with bpf.prog("socket_filter", asm.return_(0)) as program:
        program.translated()


def _traced_waits(bpf: Bpf) -> None:
    bpf.commands.ask("kprobe event", calls.Hooks.add_kprobe_event, symbols=("synchronize_rcu", "synchronize_sched"))


def _pinned(bpf: Bpf) -> None:
    path = f"{BPFFS}/harness_probe"
    bpf.map("array").pin(path)
    bpf.unpin(path)


def _cgroup(bpf: Bpf) -> None:
    bpf.cgroup("harness_probe").close()
    bpf.commands.ask("rmdir", calls.Files.remove, path=f"{CGROUPS}/harness_probe")


def _tracepoint(bpf: Bpf) -> None:
    bpf.tracepoint(bpf.prog("tracepoint", asm.return_(0)), "raw_syscalls", "sys_enter").close()


def _raw_tracepoint(bpf: Bpf) -> None:
    bpf.raw_tracepoint(bpf.prog("raw_tracepoint", asm.return_(0)), "sys_enter").close()


def _socket(bpf: Bpf) -> None:
    bpf.socket_filter(bpf.prog("socket_filter", asm.return_(0))).close()


def _namespace_file(bpf: Bpf) -> None:
    bpf.open("/proc/self/ns/mnt").close()


def _namespace(name: str) -> Callable[[Bpf], object]:
    return lambda bpf: bpf.commands.process.ask(calls.Credentials.leave, (name,))


def _cpumap_of_two(bpf: Bpf) -> ProbeResult:
    fields = {"map_type": "cpumap", "key_size": 4, "value_size": 4, "max_entries": 2}
    errno = bpf.commands.attempt("MAP_CREATE", fields).errno
    answer = Availability.NO if errno == E2BIG else Availability.YES
    return ProbeResult(answer, errno_name(errno) if errno else "accepted")


def _another_user(bpf: Bpf) -> None:
    bpf.commands.process.ask(calls.Credentials.become, 65534, ())


def _second_cpu(bpf: Bpf) -> None:
    bpf.commands.ask("sched_setaffinity", calls.Hooks.run_on, cpu=1)


def _locked_memory(bpf: Bpf) -> None:
    bpf.commands.ask("setrlimit", calls.Hooks.limit_locked_memory, size=-1)


def _switch(value: str, *, back: bool) -> Probe:
    """bpf(2) can be allowed or forbidden to the unprivileged, and what it was before can be restored."""

    def probe(bpf: Bpf) -> ProbeResult:
        path = path_of(UNPRIVILEGED)
        try:
            before = read(bpf.commands, UNPRIVILEGED)
        except BpfError as error:
            return ProbeResult(Availability.NO, f"{path}: {error.name}")
        if before == value or not back:
            return ProbeResult(Availability.YES, f"{path} is {before}")
        try:
            with sysctl(bpf.commands, UNPRIVILEGED, value):
                return ProbeResult(Availability.YES, f"{path} can be {value}")
        except BpfError as error:
            return ProbeResult(Availability.NO, f"{path} is {before} and cannot be {value}: {error.name}")

    return probe


def _mitigated(bpf: Bpf) -> ProbeResult:
    """The kernel protects itself against Spectre.

    Otherwise the verifier masks no index from v6.7 on: Linux kernel commit bc5bc309db45 ("bpf: Inherit system settings
    for CPU security mitigations").
    """
    for path, sign in ((_SPECTRE, b"Vulnerable"), ("/proc/cmdline", b"mitigations=off")):
        try:
            said = bpf.commands.ask(f"read of {path}", calls.Files.read_file, path=path)
        except BpfError:
            continue  # not every architecture and release says it
        if sign in said:
            return ProbeResult(Availability.NO, f"{path}: {sign.decode()}")
    return ProbeResult(Availability.YES, "nothing says that it does not")


def _part(sentence: str, config: str, probe: Probe) -> Capability:
    return Capability(sentence, "4.12", "", probe, config, is_part=True)


def _type(type_: str, since: str, config: str) -> Capability:
    sentence = f"programs can be of the type {type_}"
    return Capability(sentence, since, "BPF_PROG_TYPE() in bpf_types.h", loads_type(type_), config, is_part=True)


PARTS: dict[str, Capability] = {
    "jit_switch": _part(
        "programs can be compiled (net.core.bpf_jit_enable)",
        "BPF_JIT PROC_SYSCTL",
        works(_with_compiler, "the compiler is on"),
    ),
    "translated_programs": _part(
        "root sees the instructions of a program as the verifier left them",
        "KALLSYMS",
        works(_translated, "they are shown"),
    ),
    "unprivileged_open": _part(
        "bpf(2) can be allowed to the unprivileged (kernel.unprivileged_bpf_disabled)",
        "PROC_SYSCTL",
        _switch("0", back=True),
    ),
    "unprivileged_switch": _part(
        "bpf(2) can be forbidden to the unprivileged (kernel.unprivileged_bpf_disabled)",
        "PROC_SYSCTL",
        _switch("1", back=False),
    ),
    "wait_trace": _part(
        "kprobe events count waits for grace periods", "KPROBE_EVENTS", works(_traced_waits, "an event was added")
    ),
    "expedited_waits": _part(
        "waits for grace periods are ordinary or expedited", "!TINY_RCU", reads("/sys/kernel/rcu_expedited")
    ),
    "tracepoints": _part(
        "perf events attach programs to tracepoints of system calls",
        "FTRACE_SYSCALLS",
        works(_tracepoint, "raw_syscalls/sys_enter"),
    ),
    "raw_tracepoints": _part(
        "programs attach to raw tracepoints of system calls", "FTRACE_SYSCALLS", works(_raw_tracepoint, "sys_enter")
    ),
    "bpffs": _part("objects can be pinned in /sys/fs/bpf", "BPF_SYSCALL", works(_pinned, "a map was pinned")),
    "cgroups": _part("cgroup2 is mounted and takes new groups", "CGROUPS", works(_cgroup, "a group was made")),
    "namespaces": _part(
        "processes have namespaces", "NAMESPACES", works(_namespace_file, "/proc/self/ns/mnt is there")
    ),
    "mount_namespaces": _part(
        "a process can enter a new mount namespace", "NAMESPACES", works(_namespace("mnt"), "entered")
    ),
    "user_namespaces": _part(
        "a process can enter a new user namespace", "USER_NS", works(_namespace("user"), "entered")
    ),
    "users": _part("a process can become another user", "MULTIUSER", works(_another_user, "it became 65534")),
    "unix_sockets": _part("there are sockets of the family AF_UNIX", "UNIX", works(_socket, "a pair was made")),
    "second_cpu": _part("there is a second processor", "SMP", works(_second_cpu, "a process ran there")),
    "cpumap_of_two": _part("a cpumap, where there are any, may have two elements", "SMP", _cpumap_of_two),
    "vmallocinfo": _part("root sees areas of memory (/proc/vmallocinfo)", "MMU", reads("/proc/vmallocinfo")),
    "meminfo": _part("the kernel says how much memory it uses (/proc/meminfo)", "PROC_FS", reads("/proc/meminfo")),
    "mitigations": _part(
        "the kernel protects itself against Spectre (no mitigations=off)", "CPU_MITIGATIONS", _mitigated
    ),
    "locked_memory": _part("root may lock any amount of memory", "MULTIUSER", works(_locked_memory, "setrlimit")),
    "prog_tracing": Capability(
        "programs can be of the type tracing",
        "5.5",
        "BPF_PROG_TYPE() in bpf_types.h",
        _knows_tracing,
        "BPF_EVENTS",
        is_part=True,
    ),
    **{
        f"prog_{name}": _type(name, since, config)
        for name, since, config in (
            ("socket_filter", "4.12", "NET"),
            ("sched_cls", "4.12", "NET"),
            ("sched_act", "4.12", "NET"),
            ("xdp", "4.12", "NET"),
            ("kprobe", "4.12", "BPF_EVENTS"),
            ("tracepoint", "4.12", "BPF_EVENTS"),
            ("perf_event", "4.12", "BPF_EVENTS"),
            ("cgroup_skb", "4.12", "CGROUP_BPF"),
            ("cgroup_sock", "4.12", "CGROUP_BPF"),
            ("lwt_in", "4.12", "NET"),
            ("lwt_out", "4.12", "NET"),
            ("lwt_xmit", "4.12", "NET"),
            ("sock_ops", "4.13", "CGROUP_BPF"),
            ("sk_skb", "4.14", "INET"),
            ("cgroup_device", "4.15", "CGROUP_BPF"),
            ("sk_msg", "4.17", "INET"),
            ("raw_tracepoint", "4.17", "BPF_EVENTS"),
            ("cgroup_sock_addr", "4.17", "CGROUP_BPF"),
            ("lwt_seg6local", "4.18", "NET"),
            ("sk_reuseport", "4.19", "INET"),
            ("flow_dissector", "4.20", "NET"),
            ("cgroup_sysctl", "5.2", "CGROUP_BPF"),
            ("raw_tracepoint_writable", "5.2", "BPF_EVENTS"),
            ("cgroup_sockopt", "5.3", "CGROUP_BPF"),
            ("sk_lookup", "5.9", "INET"),
            ("syscall", "5.14", "BPF_SYSCALL"),
            ("netfilter", "6.4", "NETFILTER_BPF_LINK"),
        )
    },
}
"""The parts, by name."""
