"""What a kernel can do: asked of the kernel itself, and held against the version that is known to have introduced it.

A probe answers yes, no or "inconclusive", never by the version. The version tells what a "no" means: on a kernel
that should have the capability it is a failure, on an older one a reason to leave a test out.

Imports the remote API below it and the records of :mod:`harness.kernel`.
"""

from __future__ import annotations

import difflib
import enum
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from errno import E2BIG, EACCES, EBADF, EINVAL, ENOENT, EOPNOTSUPP, EPERM

from harness.errors import UsageError
from harness.features import map_types
from harness.guest.api import asm, btf, uapi
from harness.kernel.version import KernelVersion
from harness.remote.bpf import Bpf
from harness.remote.command import BpfError, HasFd
from harness.util.errnos import ENOTSUPP, errno_name


class Answer(enum.Enum):
    """What a probe found."""

    YES = "yes"
    NO = "no"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Finding:
    """A probe's answer and what it rests on.

    Attributes:
        answer: Yes, no or inconclusive.
        evidence: What the kernel said.
    """

    answer: Answer
    evidence: str


Probe = Callable[[Bpf], Finding]


@dataclass(frozen=True)
class Capability:
    """Something that kernels have from some version on.

    Attributes:
        sentence: What it is.
        since: The first mainline version that has it.
        origin: The kernel commit that introduced it, or where the kernel's source shows that it is there.
        probe: Asks a kernel; it may leave things behind in the guest process that it is given.
        config: The configuration symbol without which a kernel lacks it, "" for none.
        until: The first mainline version that lacks it again, "" for none.
        backports: The first releases of stable series that have it although mainline had it later.
        fixes: The first releases of stable series that lack it again, where it is a mistake that was undone.
    """

    sentence: str
    since: str
    origin: str
    probe: Probe
    config: str = ""
    until: str = ""
    backports: tuple[str, ...] = ()
    fixes: tuple[str, ...] = ()

    def expected(self, version: KernelVersion) -> bool:
        """Whether a kernel of this version should have it, going by what is known of versions."""
        if self.until and version.series >= KernelVersion.parse(self.until).series:
            return False
        if any(_from_release(version, release) for release in self.fixes):
            return False
        introduced = version.series >= KernelVersion.parse(self.since).series
        return introduced or any(_from_release(version, release) for release in self.backports)


def _from_release(version: KernelVersion, release: str) -> bool:
    first = KernelVersion.parse(release)
    return version.series == first.series and version >= first


class Decision(enum.Enum):
    """What a capability's finding means for a test that requires it."""

    RUN = "run"
    SKIP = "skip"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Judgement:
    """A decision and its reason, one sentence."""

    decision: Decision
    reason: str


def find(name: str) -> Capability:
    """Return the capability of this name.

    Raises:
        UsageError: There is none.
    """
    if name not in CAPABILITIES:
        close = difflib.get_close_matches(name, CAPABILITIES, 1)
        raise UsageError(
            f"no capability is called {name!r}",
            expected=f"one of {', '.join(sorted(CAPABILITIES))}",
            hint=f"did you mean {close[0]!r}?" if close else "",
        )
    return CAPABILITIES[name]


def judge(name: str, finding: Finding, version: KernelVersion, config: Mapping[str, str] | None) -> Judgement:
    """Decide what a finding means for a test that requires the capability.

    Args:
        name: The capability's name.
        finding: What its probe found.
        version: The kernel's version.
        config: The kernel's configuration, values by symbol; None where it is not known.
    """
    capability = find(name)
    if finding.answer is Answer.INCONCLUSIVE:
        return Judgement(
            Decision.INCONCLUSIVE, f"whether {version} has {name} could not be found out: {finding.evidence}"
        )
    if finding.answer is Answer.YES:
        return Judgement(Decision.RUN, f"{version} has {name} ({finding.evidence})")
    origin = f"in v{capability.since}, {capability.origin}"
    lacks = f"{version} lacks {name}: {capability.sentence} ({finding.evidence}; {origin})"
    if not capability.expected(version):
        return Judgement(Decision.SKIP, lacks)
    if capability.config and config is not None and capability.config not in config:
        return Judgement(Decision.SKIP, f"{lacks}; it was built without CONFIG_{capability.config}")
    return Judgement(Decision.FAIL, f"{lacks}: a kernel of this version should have it")


def _by_errno(errno: int, *, yes: tuple[int, ...], no: tuple[int, ...]) -> Finding:
    answer = Answer.YES if errno in yes else Answer.NO if errno in no else Answer.INCONCLUSIVE
    return Finding(answer, "accepted" if errno == 0 else errno_name(errno))


def _refuses_bad_fd(command: str, field: str) -> Probe:
    """A known command complains about its descriptor, an unknown one about the command."""

    def probe(bpf: Bpf) -> Finding:
        return _by_errno(bpf.commands.attempt(command, {field: -1}).errno, yes=(EBADF,), no=(EINVAL,))

    return probe


def _next_id(kind: str) -> Probe:
    def probe(bpf: Bpf) -> Finding:
        errno = bpf.commands.attempt(f"{kind}_GET_NEXT_ID", {"start_id": 0}).errno
        return _by_errno(errno, yes=(0, ENOENT), no=(EINVAL,))

    return probe


def _helper(number: int) -> Probe:
    """The verifier names a helper that it does not know; whatever else it says of this program, it knows it."""

    def probe(bpf: Bpf) -> Finding:
        try:
            bpf.prog("socket_filter", (asm.call(number), *asm.return_(0))).close()
        except BpfError as error:
            words = error.log.strip().splitlines()
            if not words:
                return Finding(Answer.INCONCLUSIVE, f"{error.name} and no verifier log")
            unknown = any("invalid func" in line or "unknown func" in line for line in words)
            return Finding(Answer.NO if unknown else Answer.YES, next((w for w in words if "func" in w), words[-1]))
        return Finding(Answer.YES, "accepted")

    return probe


def _creates(no: tuple[int, ...] = (EINVAL,), **fields: int | str | bytes) -> Probe:
    def probe(bpf: Bpf) -> Finding:
        given = {"key_size": 4, "value_size": 4, "max_entries": 1, **fields}
        return _by_errno(bpf.commands.attempt("MAP_CREATE", given).errno, yes=(0,), no=no)

    return probe


def _outer_batch(bpf: Bpf) -> Finding:
    outer = bpf.map("hash_of_maps", max_entries=4, inner=bpf.map("hash"))
    return _by_errno(_empty_batch(bpf, outer.fd), yes=(0, ENOENT), no=(EINVAL, ENOTSUPP))


def _hash_batch(bpf: Bpf) -> Finding:
    return _by_errno(_empty_batch(bpf, bpf.map("hash").fd), yes=(0, ENOENT), no=(EINVAL, ENOTSUPP))


def _empty_batch(bpf: Bpf, fd: int) -> int:
    fields = {"map_fd": fd, "count": 1}
    return bpf.commands.attempt("MAP_LOOKUP_BATCH", fields, {"keys": 4, "values": 4, "out_batch": 4}).errno


def _freeze(bpf: Bpf) -> Finding:
    return _by_errno(bpf.commands.attempt("MAP_FREEZE", {"map_fd": bpf.map("array")}).errno, yes=(0,), no=(EINVAL,))


def _outer_lookup(bpf: Bpf) -> Finding:
    outer = bpf.map("hash_of_maps", inner=bpf.map("hash"))
    errno = bpf.commands.attempt("MAP_LOOKUP_ELEM", {"map_fd": outer, "key": bytes(4)}, {"value": 8}).errno
    return _by_errno(errno, yes=(ENOENT,), no=(ENOTSUPP,))


def _inner_max_entries(bpf: Bpf) -> Finding:
    outer = bpf.map("hash_of_maps", inner=bpf.map("hash", max_entries=1))
    return _inserts(bpf, outer.fd, bpf.map("hash", max_entries=2).fd)


def _inserts(bpf: Bpf, outer: int, inner: int) -> Finding:
    fields = {"map_fd": outer, "key": bytes(4), "value": struct.pack("<i", inner)}
    return _by_errno(bpf.commands.attempt("MAP_UPDATE_ELEM", fields).errno, yes=(0,), no=(EINVAL,))


def _vmlinux_btf(bpf: Bpf) -> Finding:
    path = "/sys/kernel/btf/vmlinux"
    there = not bpf.commands.process.call("files.missing", [path])
    return Finding(Answer.YES if there else Answer.NO, f"{path} is {'there' if there else 'missing'}")


def _btf_load(bpf: Bpf) -> Finding:
    data = btf.encode(btf.integer("int", 4))
    return _by_errno(
        bpf.commands.attempt("BTF_LOAD", {"btf": data, "btf_size": len(data)}).errno, yes=(0,), no=(EINVAL,)
    )


def _raw_tracepoint(bpf: Bpf) -> Finding:
    # The name is looked at before the program, or after it, depending on the version.
    errno = bpf.commands.attempt("RAW_TRACEPOINT_OPEN", {"name": "no_such_tracepoint", "prog_fd": -1}).errno
    return _by_errno(errno, yes=(ENOENT, EBADF), no=(EINVAL,))


def _loads(type_: str, **attributes: int) -> Probe:
    def probe(bpf: Bpf) -> Finding:
        code = asm.assemble(*asm.return_(0))
        fields = {"prog_type": type_, "insns": code, "insn_cnt": 2, "license": "GPL", **attributes}
        return _by_errno(bpf.commands.attempt("PROG_LOAD", fields).errno, yes=(0,), no=(EINVAL,))

    return probe


def _sleepable_outer(bpf: Bpf) -> Finding:
    outer = bpf.map("hash_of_maps", inner=bpf.map("hash"))
    code = (asm.st("W", asm.R10, -4, 0), *asm.lookup(outer, -4), *asm.return_(0))
    try:
        bpf.prog("syscall", code, prog_flags=uapi.SLEEPABLE).close()
    except BpfError as error:
        return _by_errno(error.errno, yes=(), no=(EINVAL,))
    return Finding(Answer.YES, "accepted")


def _unlimited_memory(bpf: Bpf) -> Finding:
    bpf.commands.call("hooks.limit_locked_memory", "setrlimit", size=0)
    return _by_errno(bpf.commands.attempt(*_small_map()).errno, yes=(0,), no=(EPERM,))


def _interpreter(bpf: Bpf) -> Finding:
    """A kernel built with CONFIG_BPF_JIT_ALWAYS_ON refuses to switch its compiler off; what was set is set again."""
    switch = {"path": "/proc/sys/net/core/bpf_jit_enable"}
    before = bpf.commands.call("hooks.read_file", "read of bpf_jit_enable", **switch).strip()
    try:
        bpf.commands.call("hooks.write_file", "write to bpf_jit_enable", data=b"0", **switch)
    except BpfError as error:
        return _by_errno(error.errno, yes=(), no=(EINVAL,))
    bpf.commands.call("hooks.write_file", "write to bpf_jit_enable", data=before, **switch)
    return Finding(Answer.YES, "the compiler can be switched off")


def _small_map() -> tuple[str, dict[str, int | str]]:
    return "MAP_CREATE", {"map_type": "array", "key_size": 4, "value_size": 4, "max_entries": 1}


def _exclusive(bpf: Bpf) -> Finding:
    name, fields = _small_map()
    errno = bpf.commands.attempt(name, {**fields, "excl_prog_hash": bytes(32), "excl_prog_hash_size": 32}).errno
    return _by_errno(errno, yes=(0,), no=(E2BIG, EINVAL))


def _creates_type(name: str) -> Probe:
    def probe(bpf: Bpf) -> Finding:
        return _by_errno(_errno(map_types.create, bpf, name), yes=(0,), no=(EINVAL, EOPNOTSUPP))

    return probe


def _errno(command: Callable[..., object], *arguments: object, **keywords: object) -> int:
    try:
        command(*arguments, **keywords)
    except BpfError as error:
        return error.errno
    return 0


def _inner_spin_lock(bpf: Bpf) -> Finding:
    return _template(bpf, lambda: map_types.with_struct(bpf, "bpf_spin_lock"), no=(ENOTSUPP,))


def _exclusive_inner(bpf: Bpf) -> Finding:
    return _template(bpf, lambda: bpf.map("array", excl_prog_hash=bytes(32), excl_prog_hash_size=32), no=(ENOTSUPP,))


def _template(bpf: Bpf, make: Callable[[], HasFd], no: tuple[int, ...]) -> Finding:
    """Offer a map as a template, on a kernel that may lack what it takes to create it."""
    try:
        template = make()
    except BpfError as error:
        return Finding(Answer.NO, f"no such map: {error.name}")
    return _by_errno(_errno(bpf.map, "hash_of_maps", inner=template), yes=(0,), no=no)


def _struct_btf_counts(bpf: Bpf) -> Finding:
    try:
        typed = map_types.with_struct(bpf, "plain")
    except BpfError as error:
        return Finding(Answer.NO, f"no such map: {error.name}")
    outer = bpf.map("hash_of_maps", inner=map_types.with_struct(bpf, ""))
    return _by_errno(_errno(outer.update, 0, typed), yes=(EINVAL,), no=(0,))


def _percpu_array_size_counts(bpf: Bpf) -> Finding:
    other = bpf.map("hash_of_maps", inner=bpf.map("hash", max_entries=1))
    if _errno(other.update, 0, bpf.map("hash", max_entries=2)):
        return Finding(Answer.NO, "as in a map of any type")
    outer = bpf.map("hash_of_maps", inner=bpf.map("percpu_array", max_entries=1))
    return _by_errno(_errno(outer.update, 0, bpf.map("percpu_array", max_entries=2)), yes=(EINVAL,), no=(0,))


def _elided_null_check(bpf: Bpf) -> Finding:
    try:
        inner = bpf.map("array", max_entries=4, map_flags=uapi.INNER_MAP)
    except BpfError as error:
        return Finding(Answer.NO, f"no such map: {error.name}")
    outer = bpf.map("hash_of_maps", inner=inner)
    try:
        # Loaded only: a program that reads past a smaller inner array would come of running it.
        bpf.prog("socket_filter", _unchecked_lookup(outer)).close()
    except BpfError as error:
        return _by_errno(error.errno, yes=(), no=(EACCES,))
    return Finding(Answer.YES, "accepted")


def _unchecked_lookup(outer: HasFd) -> tuple[asm.Instruction | asm.Label, ...]:
    """Read element 0 of an inner array without looking whether there is one."""
    return (
        asm.st("W", asm.R10, -4, 0),
        *asm.lookup(outer, -4),
        asm.jump("==", asm.R0, 0, "none"),
        asm.mov(asm.R1, asm.R0),
        asm.mov(asm.R2, asm.R10),
        asm.add(asm.R2, -4),
        asm.call("map_lookup_elem"),
        asm.ldx("W", asm.R0, asm.R0),
        asm.exit(),
        asm.label("none"),
        *asm.return_(0),
    )


CAPABILITIES: dict[str, Capability] = {
    **{
        f"map_{name}": Capability(
            f"maps can be of the type {name}", of.since, of.origin, _creates_type(name), of.config
        )
        for name, of in map_types.MAP_TYPES.items()
    },
    "prog_test_run": Capability(
        "programs can be run by a command", "4.12", "commit 1cf1cae963c2", _refuses_bad_fd("PROG_TEST_RUN", "prog_fd")
    ),
    "interpreter": Capability(
        "programs can be interpreted", "4.12", "CONFIG_BPF_JIT_ALWAYS_ON, from v4.15, takes it away", _interpreter
    ),
    "ids": Capability("maps and programs have ids that can be walked", "4.13", "commit 34ad5580f8f9", _next_id("MAP")),
    "outer_lookup": Capability(
        "user space reads ids of inner maps from an outer map", "4.13", "commit 14dc6f04f49d", _outer_lookup
    ),
    "raw_tracepoint": Capability("programs attach to raw tracepoints", "4.17", "commit c4f6699dfcb8", _raw_tracepoint),
    "btf_load": Capability("BTF can be loaded", "4.18", "commit f56a653c1fd1", _btf_load),
    "queue": Capability(
        "maps can be queues and stacks", "4.20", "commit f1a2e44a3aec", _creates(map_type="queue", key_size=0)
    ),
    "spin_lock": Capability("programs take spin locks in map values", "5.1", "commit d83525ca62cf", _helper(93)),
    "freeze": Capability("maps can be frozen", "5.2", "commit 87df15de441b", _freeze),
    "btf": Capability("the kernel carries its own BTF", "5.4", "commit 341dfcf8d78e", _vmlinux_btf, "DEBUG_INFO_BTF"),
    "btf_ids": Capability("BTF objects have ids that can be walked", "5.4", "commit 1b9ed84ecf26", _next_id("BTF")),
    "batch_ops": Capability("hash tables have batch commands", "5.6", "commit 057996380a42", _hash_batch),
    "links": Capability(
        "attachments can be links", "5.7", "commit af6eea57437a", _refuses_bad_fd("LINK_CREATE", "prog_fd")
    ),
    "link_ids": Capability("links have ids that can be walked", "5.8", "commit 2d602c8cf40d", _next_id("LINK")),
    "iterators": Capability(
        "programs iterate over kernel objects", "5.8", "commit ac51d99bf81c", _refuses_bad_fd("ITER_CREATE", "link_fd")
    ),
    "ringbuf": Capability(
        "maps can be ring buffers",
        "5.8",
        "commit 457f44363a88",
        _creates(map_type="ringbuf", key_size=0, value_size=0, max_entries=4096),
    ),
    "link_detach": Capability(
        "links can be detached", "5.9", "commit 73b11c2ab072", _refuses_bad_fd("LINK_DETACH", "link_fd")
    ),
    "inner_max_entries": Capability(
        "an inner hash table may have another size than the template", "5.10", "commit 134fede4eecf", _inner_max_entries
    ),
    "inner_map_flag": Capability(
        "arrays that are inner maps may differ in size (BPF_F_INNER_MAP)",
        "5.10",
        "commit 4a8f87e60f6d",
        _creates(map_type="array", map_flags=uapi.INNER_MAP),
    ),
    "memcg_accounting": Capability(
        "RLIMIT_MEMLOCK does not limit maps",
        "5.11",
        "no bpf_map_charge_init in kernel/bpf/syscall.c",
        _unlimited_memory,
    ),
    "large_keys": Capability(
        "keys of hash tables may be larger than 512 bytes",
        "5.11",
        "htab_map_alloc_check in kernel/bpf/hashtab.c",
        _creates(map_type="hash", key_size=513, no=(E2BIG,)),
    ),
    "for_each_map_elem": Capability("programs walk over maps", "5.13", "commit 69c087ba6225", _helper(164)),
    "syscall_programs": Capability(
        "programs make system calls", "5.14", "commit 79a7f8bdb159", _loads("syscall", prog_flags=uapi.SLEEPABLE)
    ),
    "sleepable_outer": Capability(
        "a sleepable (syscall) program uses an outer map", "5.14", "commit 79a7f8bdb159", _sleepable_outer
    ),
    "timers": Capability("programs set timers in map values", "5.15", "commit b00628b1c7d5", _helper(169)),
    "outer_batch_ops": Capability("outer maps have batch commands", "5.19", "commit 9263dddc7b6f", _outer_batch),
    "lookup_percpu_elem": Capability(
        "programs read other CPUs' values of a per-CPU map", "5.19", "commit 07343110b293", _helper(195)
    ),
    "inner_spin_lock": Capability(
        "the template's value may hold a bpf_spin_lock",
        "6.2",
        "no map_value_has_spin_lock() in bpf_map_meta_alloc()",
        _inner_spin_lock,
    ),
    "struct_btf_counts": Capability(
        "an inner map's value has BTF of a struct if and only if the template's has (timer_off is compared)",
        "5.15",
        "timer_off in bpf_map_meta_equal()",
        _struct_btf_counts,
        until="6.2",
    ),
    "percpu_array_size_counts": Capability(
        "an inner per-CPU array has the template's max_entries, unlike other inner maps",
        "7.1",
        "percpu_array_map_ops.map_meta_equal",
        _percpu_array_size_counts,
    ),
    "elided_null_check": Capability(
        "a constant key of an inner array of any size needs no null check, which is a mistake",
        "6.15",
        "get_constant_map_key() in kernel/bpf/verifier.c",
        _elided_null_check,
        until="7.2",
        fixes=("7.1.7",),
    ),
    "exclusive_inner": Capability(
        "a map for one program alone may be an inner map, which is a mistake",
        "6.18",
        "no excl_prog_sha in bpf_map_meta_alloc()",
        _exclusive_inner,
        until="7.2",
        fixes=("7.1.7",),
    ),
    "exclusive_maps": Capability(
        "a map may be for one program alone (excl_prog_hash)", "6.18", "excl_prog_hash in union bpf_attr", _exclusive
    ),
}
