"""The probes: each asks a kernel, by what it does, whether it can do something; never by its version."""

from __future__ import annotations

from collections.abc import Callable
from errno import E2BIG, EACCES, EBADF, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP, EPERM

from harness.features import map_types
from harness.features.capability import Availability, Probe, ProbeResult
from harness.guest import calls
from harness.guest.api import asm, btf, uapi
from harness.remote.bpf import Bpf
from harness.remote.command import BpfError, HasFd
from harness.remote.objects import Program
from harness.remote.sysctl import JIT, sysctl
from harness.util.architecture import ByteOrder
from harness.util.errnos import ENOTSUPP, errno_name

_AT_PAGESZ = 6
"""The entry of the auxiliary vector with the size of a page."""


def _by_errno(errno: int, *, yes: tuple[int, ...], no: tuple[int, ...]) -> ProbeResult:
    answer = Availability.YES if errno in yes else Availability.NO if errno in no else Availability.INCONCLUSIVE
    return ProbeResult(answer, "accepted" if errno == 0 else errno_name(errno))


def refuses_bad_fd(command: str, field: str) -> Probe:
    """A kernel that knows the command refuses its descriptor; other kernels refuse the command."""

    def probe(bpf: Bpf) -> ProbeResult:
        return _by_errno(bpf.commands.attempt(command, {field: -1}).errno, yes=(EBADF,), no=(EINVAL,))

    return probe


def next_id(kind: str) -> Probe:
    """A known command returns an id or finds none; an unknown one complains about itself."""

    def probe(bpf: Bpf) -> ProbeResult:
        errno = bpf.commands.attempt(f"{kind}_GET_NEXT_ID", {"start_id": 0}).errno
        return _by_errno(errno, yes=(0, ENOENT), no=(EINVAL,))

    return probe


def helper(number: int) -> Probe:
    """The verifier names an unknown helper; with any other refusal of this program, it knows the helper."""

    def probe(bpf: Bpf) -> ProbeResult:
        try:
            bpf.prog("socket_filter", (asm.call(number), *asm.return_(0))).close()
        except BpfError as error:
            words = error.log.strip().splitlines()
            if not words:
                return ProbeResult(Availability.INCONCLUSIVE, f"{error.name} and no verifier log")
            unknown = any("invalid func" in line or "unknown func" in line for line in words)
            return ProbeResult(
                Availability.NO if unknown else Availability.YES, next((w for w in words if "func" in w), words[-1])
            )
        return ProbeResult(Availability.YES, "accepted")

    return probe


def creates(no: tuple[int, ...] = (EINVAL,), **fields: int | str | bytes) -> Probe:
    """Maps with these fields can be created."""

    def probe(bpf: Bpf) -> ProbeResult:
        given = {"key_size": 4, "value_size": 4, "max_entries": 1, **fields}
        return _by_errno(bpf.commands.attempt("MAP_CREATE", given).errno, yes=(0,), no=no)

    return probe


def outer_batch(bpf: Bpf) -> ProbeResult:
    """Batch commands are carried out on an outer map."""
    outer = bpf.map("hash_of_maps", max_entries=4, inner=bpf.map("hash"))
    return _by_errno(_empty_batch(bpf, outer.fd), yes=(0, ENOENT), no=(EINVAL, ENOTSUPP))


def hash_batch(bpf: Bpf) -> ProbeResult:
    """Batch commands are carried out on a hash table."""
    return _by_errno(_empty_batch(bpf, bpf.map("hash").fd), yes=(0, ENOENT), no=(EINVAL, ENOTSUPP))


def _empty_batch(bpf: Bpf, fd: int) -> int:
    fields = {"map_fd": fd, "count": 1}
    return bpf.commands.attempt("MAP_LOOKUP_BATCH", fields, {"keys": 4, "values": 4, "out_batch": 4}).errno


def freeze(bpf: Bpf) -> ProbeResult:
    """A map can be frozen."""
    return _by_errno(bpf.commands.attempt("MAP_FREEZE", {"map_fd": bpf.map("array")}).errno, yes=(0,), no=(EINVAL,))


def outer_lookup(bpf: Bpf) -> ProbeResult:
    """A lookup in an outer map finds no element, rather than being unsupported."""
    outer = bpf.map("hash_of_maps", inner=bpf.map("hash"))
    errno = bpf.commands.attempt("MAP_LOOKUP_ELEM", {"map_fd": outer, "key": bytes(4)}, {"value": 8}).errno
    return _by_errno(errno, yes=(ENOENT,), no=(ENOTSUPP,))


def inner_max_entries(bpf: Bpf) -> ProbeResult:
    """An inner map of another size than the template's goes into an outer map."""
    outer = bpf.map("hash_of_maps", inner=bpf.map("hash", max_entries=1))
    return _inserts(bpf, outer.fd, bpf.map("hash", max_entries=2).fd)


def _inserts(bpf: Bpf, outer: int, inner: int) -> ProbeResult:
    fields = {"map_fd": outer, "key": bytes(4), "value": inner.to_bytes(4, bpf.byte_order)}
    return _by_errno(bpf.commands.attempt("MAP_UPDATE_ELEM", fields).errno, yes=(0,), no=(EINVAL,))


def vmlinux_btf(bpf: Bpf) -> ProbeResult:
    """The file with the kernel's own BTF is there."""
    path = "/sys/kernel/btf/vmlinux"
    there = not bpf.commands.process.ask(calls.Files.missing, [path])
    return ProbeResult(Availability.YES if there else Availability.NO, f"{path} is {'there' if there else 'missing'}")


def btf_load(bpf: Bpf) -> ProbeResult:
    """BTF of one integer type can be loaded."""
    data = btf.encode(btf.integer("int", 4), byte_order=bpf.byte_order)
    return _by_errno(
        bpf.commands.attempt("BTF_LOAD", {"btf": data, "btf_size": len(data)}).errno, yes=(0,), no=(EINVAL,)
    )


def raw_tracepoint(bpf: Bpf) -> ProbeResult:
    """A known command complains about the tracepoint or the program, an unknown one about itself."""
    # Some versions check the name before the program, others after it.
    errno = bpf.commands.attempt("RAW_TRACEPOINT_OPEN", {"name": "no_such_tracepoint", "prog_fd": -1}).errno
    return _by_errno(errno, yes=(ENOENT, EBADF), no=(EINVAL,))


def loads(type_: str, **attributes: int) -> Probe:
    """Programs of this type with these attributes can be loaded."""

    def probe(bpf: Bpf) -> ProbeResult:
        code = bpf.assemble(*asm.return_(0))
        fields = {"prog_type": type_, "insns": code, "insn_cnt": 2, "license": "GPL", **attributes}
        return _by_errno(bpf.commands.attempt("PROG_LOAD", fields).errno, yes=(0,), no=(EINVAL,))

    return probe


def sleepable_outer(bpf: Bpf) -> ProbeResult:
    """A sleepable program that looks up in an outer map can be loaded."""
    outer = bpf.map("hash_of_maps", inner=bpf.map("hash"))
    code = (asm.st("W", asm.R10, -4, 0), *asm.lookup(outer, -4), *asm.return_(0))
    try:
        bpf.prog("syscall", code, prog_flags=uapi.SLEEPABLE).close()
    except BpfError as error:
        return _by_errno(error.errno, yes=(), no=(EINVAL,))
    return ProbeResult(Availability.YES, "accepted")


def unlimited_memory(bpf: Bpf) -> ProbeResult:
    """A map can be created where RLIMIT_MEMLOCK leaves room for nothing."""
    bpf.commands.ask("setrlimit", calls.Hooks.limit_locked_memory, size=0)
    return _by_errno(bpf.commands.attempt(*_small_map()).errno, yes=(0,), no=(EPERM,))


def interpreter(bpf: Bpf) -> ProbeResult:
    """A kernel built with CONFIG_BPF_JIT_ALWAYS_ON refuses to switch its compiler off; the old value is restored."""
    try:
        with sysctl(bpf.commands, JIT, "0"):
            return ProbeResult(Availability.YES, "the compiler can be switched off")
    except BpfError as error:
        return _by_errno(error.errno, yes=(), no=(EINVAL,))


def percpu_array_inlined(bpf: Bpf) -> ProbeResult:
    """A program that is compiled has no call of the helper left; the compiler must know addresses of a CPU's data."""
    numbers = bpf.map("percpu_array", max_entries=1)
    read = asm.lookup(numbers, -8)
    try:
        with (
            sysctl(bpf.commands, JIT, "1"),
            bpf.prog("socket_filter", (asm.st("W", asm.R10, -8, 0), *read, *asm.return_(0))) as program,
        ):
            called = any(one.code == read[-1].code for one in program.translated())
    except BpfError as error:
        return ProbeResult(Availability.INCONCLUSIVE, f"{error.command}: {error.name}")
    return ProbeResult(Availability.NO if called else Availability.YES, "called" if called else "inlined")


def keys_of(size: int) -> Probe:
    """Keys have no limit of 512 bytes, and blocks of the kernel's memory are larger than this number of bytes.

    /proc/buddyinfo has a column for each power of two of pages, up to the largest block.
    """

    def probe(bpf: Bpf) -> ProbeResult:
        short = creates(map_type="hash", key_size=513, no=(E2BIG,))(bpf)
        if short.answer is not Availability.YES:
            return short
        try:
            lines, vector = (
                bpf.commands.ask(f"read of {path}", calls.Files.read_file, path=path)
                for path in ("/proc/buddyinfo", "/proc/self/auxv")
            )
        except BpfError as error:
            return ProbeResult(Availability.INCONCLUSIVE, f"{error.command}: {error.name}")
        _, page = _word_and_page(vector, bpf.byte_order)
        columns = lines.splitlines()[0].partition(b"zone")[2].split()[1:]
        largest = page << len(columns) - 1
        answer = Availability.YES if largest > size else Availability.NO
        return ProbeResult(answer, f"blocks have up to {largest >> 10} KiB")

    return probe


def threads(bpf: Bpf) -> ProbeResult:
    """A child process starts a thread and ends as it means to."""
    status = bpf.commands.ask("clone3", calls.Hooks.start_thread)
    if status:
        return ProbeResult(Availability.NO, f"a process that started one ended with the wait status {status}")
    return ProbeResult(Availability.YES, "one was started")


def wide_words(bpf: Bpf) -> ProbeResult:
    """The auxiliary vector of a process, which is of the kernel's own kind, has words of 8 bytes."""
    path = "/proc/self/auxv"
    try:
        vector = bpf.commands.ask(f"read of {path}", calls.Files.read_file, path=path)
    except BpfError as error:
        return ProbeResult(Availability.INCONCLUSIVE, f"{error.command}: {error.name}")
    word, _ = _word_and_page(vector, bpf.byte_order)
    return ProbeResult(Availability.YES if word == 8 else Availability.NO, f"words have {8 * word} bits")


def _word_and_page(vector: bytes, byte_order: ByteOrder) -> tuple[int, int]:
    """Return the bytes of a word and of a page, by an auxiliary vector: pairs of words, one of them about pages."""
    for size in (8, 4):
        words = [int.from_bytes(vector[at : at + size], byte_order) for at in range(0, len(vector), size)]
        pairs = dict(zip(words[::2], words[1::2], strict=False))
        if _AT_PAGESZ in pairs:
            return size, pairs[_AT_PAGESZ]
    raise AssertionError(f"an auxiliary vector does not say how large a page is: {vector.hex()}")


def compiled_functions(bpf: Bpf) -> ProbeResult:
    """A program with a function of its own is compiled where the compiler is on; otherwise it is interpreted."""
    code = (asm.call_local("function"), asm.exit(), asm.label("function"), *asm.return_(0))
    try:
        with sysctl(bpf.commands, JIT, "1"), bpf.prog("socket_filter", code) as program:
            compiled = program.info()["jited_prog_len"] > 0
    except BpfError as error:
        return ProbeResult(Availability.NO, f"{error.command}: {error.name}")
    return ProbeResult(Availability.YES if compiled else Availability.NO, "compiled" if compiled else "interpreted")


def _small_map() -> tuple[str, dict[str, int | str]]:
    return "MAP_CREATE", {"map_type": "array", "key_size": 4, "value_size": 4, "max_entries": 1}


def exclusive(bpf: Bpf) -> ProbeResult:
    """A map for one program alone can be created."""
    name, fields = _small_map()
    errno = bpf.commands.attempt(name, {**fields, "excl_prog_hash": bytes(32), "excl_prog_hash_size": 32}).errno
    return _by_errno(errno, yes=(0,), no=(E2BIG, EINVAL))


def creates_type(name: str) -> Probe:
    """Maps of this type can be created."""

    def probe(bpf: Bpf) -> ProbeResult:
        return _by_errno(_errno(map_types.create, bpf, name), yes=(0,), no=(EINVAL, EOPNOTSUPP))

    return probe


def _errno(command: Callable[..., object], *arguments: object, **keywords: object) -> int:
    try:
        command(*arguments, **keywords)
    except BpfError as error:
        return error.errno
    return 0


def inner_spin_lock(bpf: Bpf) -> ProbeResult:
    """A map with a bpf_spin_lock in its values can be a template."""
    return _template(bpf, lambda: map_types.with_struct(bpf, "bpf_spin_lock"), no=(ENOTSUPP,))


def timer_programs(bpf: Bpf) -> ProbeResult:
    """A program that initialises the timer in a map's value can be loaded."""
    found = _with_timer(bpf)
    return found if isinstance(found, ProbeResult) else ProbeResult(Availability.YES, "accepted")


def timer_memory(bpf: Bpf) -> ProbeResult:
    """A program initialises the timer in a map's value.

    Since bpf_timer_init() allocates by kmalloc_nolock(), which it did not in v6.12 and does in v7.2, it is ENOMEM where
    the processor does not compare and exchange two words at once: `!(s->flags & __CMPXCHG_DOUBLE)` in mm/slub.c.
    """
    found = _with_timer(bpf)
    if isinstance(found, ProbeResult):
        return found
    answer = found.run().retval
    return _by_errno((1 << 32) - answer if answer else 0, yes=(0,), no=(ENOMEM,))


def _with_timer(bpf: Bpf) -> Program | ProbeResult:
    """Return a program that initialises a timer and returns what bpf_timer_init() does; or why there is none."""
    try:
        timed = map_types.with_struct(bpf, "bpf_timer", "array")
    except BpfError as error:
        return ProbeResult(Availability.NO, f"no such map: {error.name}")
    code: list[asm.Instruction | asm.Label] = [
        asm.st("W", asm.R10, -4, 0),
        *asm.lookup(timed, -4),
        asm.jump("==", asm.R0, 0, "none"),
        asm.mov(asm.R1, asm.R0),
        asm.ld_map(asm.R2, timed),
        asm.mov(asm.R3, 1),
        asm.call("timer_init"),
        asm.label("none"),
        asm.exit(),
    ]
    try:
        return bpf.prog("sched_cls", code)
    except BpfError as error:
        # EOPNOTSUPP of a kernel with CONFIG_PREEMPT_RT, seen on 6.12.
        return _by_errno(error.errno, yes=(), no=(EINVAL, EACCES, EOPNOTSUPP))


def exclusive_inner(bpf: Bpf) -> ProbeResult:
    """A map for one program alone can be a template."""
    return _template(bpf, lambda: bpf.map("array", excl_prog_hash=bytes(32), excl_prog_hash_size=32), no=(ENOTSUPP,))


def _template(bpf: Bpf, make: Callable[[], HasFd], no: tuple[int, ...]) -> ProbeResult:
    """Use a map as a template, on a kernel that may be unable to create the map."""
    try:
        template = make()
    except BpfError as error:
        return ProbeResult(Availability.NO, f"no such map: {error.name}")
    return _by_errno(_errno(bpf.map, "hash_of_maps", inner=template), yes=(0,), no=no)


def struct_btf_counts(bpf: Bpf) -> ProbeResult:
    """An inner map whose value has BTF of a struct is refused where the template's has none."""
    try:
        typed = map_types.with_struct(bpf, "plain")
    except BpfError as error:
        return ProbeResult(Availability.NO, f"no such map: {error.name}")
    outer = bpf.map("hash_of_maps", inner=map_types.with_struct(bpf, ""))
    return _by_errno(_errno(outer.update, 0, typed), yes=(EINVAL,), no=(0,))


def percpu_array_size_counts(bpf: Bpf) -> ProbeResult:
    """A per-CPU array of another size than the template's is refused, and a hash table is not."""
    other = bpf.map("hash_of_maps", inner=bpf.map("hash", max_entries=1))
    if _errno(other.update, 0, bpf.map("hash", max_entries=2)):
        return ProbeResult(Availability.NO, "as in a map of any type")
    outer = bpf.map("hash_of_maps", inner=bpf.map("percpu_array", max_entries=1))
    return _by_errno(_errno(outer.update, 0, bpf.map("percpu_array", max_entries=2)), yes=(EINVAL,), no=(0,))


def elided_null_check(bpf: Bpf) -> ProbeResult:
    """A program that reads an inner array's element without a null check can be loaded."""
    try:
        inner = bpf.map("array", max_entries=4, map_flags=uapi.INNER_MAP)
    except BpfError as error:
        return ProbeResult(Availability.NO, f"no such map: {error.name}")
    outer = bpf.map("hash_of_maps", inner=inner)
    try:
        # Load it only: when run, the program would read past a smaller inner array.
        bpf.prog("socket_filter", _unchecked_lookup(outer)).close()
    except BpfError as error:
        return _by_errno(error.errno, yes=(), no=(EACCES,))
    return ProbeResult(Availability.YES, "accepted")


def _unchecked_lookup(outer: HasFd) -> tuple[asm.Instruction | asm.Label, ...]:
    """Read element 0 of an inner array without a null check."""
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
