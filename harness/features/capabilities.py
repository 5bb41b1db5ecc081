"""What a kernel can do: asked of the kernel itself, and compared with the version that is known to have introduced it.

A probe answers yes, no or "inconclusive", never by the version. The version says what a "no" means: on a kernel
that should have the capability it is a failure, on an older one a reason to leave a test out.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from errno import E2BIG

from harness.errors import UsageError
from harness.features import map_types
from harness.features.capability import Availability, Capability, Decision, Judgement, ProbeResult
from harness.features.parts import PARTS
from harness.features.probes import (
    btf_load,
    compiled_functions,
    creates,
    creates_type,
    elided_null_check,
    exclusive,
    exclusive_inner,
    freeze,
    hash_batch,
    helper,
    inner_max_entries,
    inner_spin_lock,
    interpreter,
    keys_of,
    loads,
    next_id,
    outer_batch,
    outer_lookup,
    percpu_array_inlined,
    percpu_array_size_counts,
    raw_tracepoint,
    refuses_bad_fd,
    sleepable_outer,
    struct_btf_counts,
    threads,
    timer_memory,
    timer_programs,
    unlimited_memory,
    vmlinux_btf,
    wide_words,
)
from harness.guest.api import uapi
from harness.kernel.version import KernelVersion


def find(name: str) -> Capability:
    """Return the capability of this name.

    Raises:
        UsageError: There is no such capability.
    """
    if name not in CAPABILITIES:
        close = difflib.get_close_matches(name, CAPABILITIES, 1)
        raise UsageError(
            f"there is no capability {name!r}",
            expected=f"one of {', '.join(sorted(CAPABILITIES))}",
            hint=f"did you mean {close[0]!r}?" if close else "",
        )
    return CAPABILITIES[name]


def judge(name: str, finding: ProbeResult, version: KernelVersion, config: Mapping[str, str] | None) -> Judgement:
    """Decide the consequence of a finding for a test that requires the capability.

    Args:
        name: The capability's name.
        finding: The probe's finding.
        version: The kernel's version.
        config: The kernel's configuration, values by symbol; None when unknown.
    """
    capability = find(name)
    if finding.answer is Availability.INCONCLUSIVE:
        return Judgement(
            Decision.INCONCLUSIVE, f"whether {version} has {name} could not be found out: {finding.evidence}"
        )
    if finding.answer is Availability.YES:
        return Judgement(Decision.RUN, f"{version} has {name} ({finding.evidence})")
    origin = f"; in v{capability.since}, {capability.origin}" if capability.origin else ""
    lacks = f"{version} lacks {name}: {capability.sentence} ({finding.evidence}{origin})"
    if not capability.expected(version):
        return Judgement(Decision.SKIP, lacks)
    needed = [f"CONFIG_{symbol}" for symbol in capability.config.split() if not symbol.startswith("!")]
    unwanted = [f"CONFIG_{symbol[1:]}" for symbol in capability.config.split() if symbol.startswith("!")]
    if config is None and needed + unwanted:
        doubts = [f"{' or '.join(names)} may be {how}" for names, how in ((needed, "off"), (unwanted, "on")) if names]
        return Judgement(Decision.SKIP, f"{lacks}; its configuration is unknown, {' and '.join(doubts)}")
    known = {f"CONFIG_{symbol}" for symbol in config or ()}
    if missing := [name for name in needed if name not in known]:
        return Judgement(Decision.SKIP, f"{lacks}; it was built without {' and '.join(missing)}")
    if present := [name for name in unwanted if name in known]:
        return Judgement(Decision.SKIP, f"{lacks}; it was built with {' and '.join(present)}")
    if capability.is_part:
        symbols = " and ".join(needed)
        with_symbol = f", although it was built with {symbols}" if symbols else ""
        return Judgement(Decision.SKIP, f"{lacks}; it was booted without, or its architecture cannot{with_symbol}")
    return Judgement(Decision.FAIL, f"{lacks}: a kernel of this version should have it")


_KEYS_OF = "keys of hash tables may have {} MiB, for which the kernel allocates more in one piece (MAX_PAGE_ORDER)"

CAPABILITIES: dict[str, Capability] = {
    **PARTS,
    **{
        f"map_{name}": Capability(
            f"maps can be of the type {name}",
            of.since,
            of.origin,
            creates_type(name),
            of.config,
            is_part=of.by_architecture,
        )
        for name, of in map_types.MAP_TYPES.items()
    },
    "prog_test_run": Capability(
        "programs can be run by a command",
        "4.12",
        "commit 1cf1cae963c2",
        refuses_bad_fd("PROG_TEST_RUN", "prog_fd"),
    ),
    "interpreter": Capability(
        "programs can be interpreted",
        "4.12",
        "CONFIG_BPF_JIT_ALWAYS_ON, from v4.15, takes it away",
        interpreter,
        "!BPF_JIT_ALWAYS_ON",
    ),
    "ids": Capability("maps and programs have ids that can be walked", "4.13", "commit 34ad5580f8f9", next_id("MAP")),
    "outer_lookup": Capability(
        "user space reads ids of inner maps from an outer map", "4.13", "commit 14dc6f04f49d", outer_lookup
    ),
    "raw_tracepoint": Capability("programs attach to raw tracepoints", "4.17", "commit c4f6699dfcb8", raw_tracepoint),
    "btf_load": Capability("BTF can be loaded", "4.18", "commit f56a653c1fd1", btf_load),
    "queue": Capability(
        "maps can be queues and stacks", "4.20", "commit f1a2e44a3aec", creates(map_type="queue", key_size=0)
    ),
    "spin_lock": Capability("programs take spin locks in map values", "5.1", "commit d83525ca62cf", helper(93)),
    "freeze": Capability("maps can be frozen", "5.2", "commit 87df15de441b", freeze),
    "threads": Capability(
        "processes start threads (clone3() of v5.3 takes the address of a stack for its end)",
        "5.4",
        "commit fa729c4df558",
        threads,
        backports=("5.3.11",),
    ),
    "btf": Capability("the kernel carries its own BTF", "5.4", "commit 341dfcf8d78e", vmlinux_btf, "DEBUG_INFO_BTF"),
    "btf_ids": Capability("BTF objects have ids that can be walked", "5.4", "commit 1b9ed84ecf26", next_id("BTF")),
    "batch_ops": Capability("hash tables have batch commands", "5.6", "commit 057996380a42", hash_batch),
    "links": Capability(
        "attachments can be links", "5.7", "commit af6eea57437a", refuses_bad_fd("LINK_CREATE", "prog_fd")
    ),
    "link_ids": Capability("links have ids that can be walked", "5.8", "commit 2d602c8cf40d", next_id("LINK")),
    "iterators": Capability(
        "programs iterate over kernel objects",
        "5.8",
        "commit ac51d99bf81c",
        refuses_bad_fd("ITER_CREATE", "link_fd"),
    ),
    "ringbuf": Capability(
        "maps can be ring buffers",
        "5.8",
        "commit 457f44363a88",
        creates(map_type="ringbuf", key_size=0, value_size=0, max_entries=map_types.RING_SIZE),
    ),
    "link_detach": Capability(
        "links can be detached", "5.9", "commit 73b11c2ab072", refuses_bad_fd("LINK_DETACH", "link_fd")
    ),
    "inner_max_entries": Capability(
        "an inner hash table may have another size than the template",
        "5.10",
        "commit 134fede4eecf",
        inner_max_entries,
    ),
    "inner_map_flag": Capability(
        "arrays that are inner maps may differ in size (BPF_F_INNER_MAP)",
        "5.10",
        "commit 4a8f87e60f6d",
        creates(map_type="array", map_flags=uapi.INNER_MAP),
    ),
    "memcg_accounting": Capability(
        "RLIMIT_MEMLOCK does not limit maps",
        "5.11",
        "no bpf_map_charge_init in kernel/bpf/syscall.c",
        unlimited_memory,
    ),
    "large_keys": Capability(
        "keys of hash tables may be larger than 512 bytes",
        "5.11",
        "htab_map_alloc_check in kernel/bpf/hashtab.c",
        creates(map_type="hash", key_size=513, no=(E2BIG,)),
    ),
    "keys_of_4_mib": Capability(_KEYS_OF.format(4), "4.12", "", keys_of(4 << 20), is_part=True),
    "keys_of_16_mib": Capability(_KEYS_OF.format(16), "4.12", "", keys_of(16 << 20), is_part=True),
    "wide_words": Capability(
        "a word of the kernel has 64 bits (BITS_PER_LONG), without which the verifier inlines no lookup and an array "
        "of maps is read elsewhere than it is written (the contract aom.lookup.where)",
        "4.12",
        "",
        wide_words,
        is_part=True,
    ),
    "compiled_functions": Capability(
        "programs with functions of their own, callbacks among them, are compiled, where the architecture's JIT can",
        "4.16",
        "commit 1c2a088a6626",
        compiled_functions,
        "BPF_JIT",
        is_part=True,
    ),
    "percpu_array_inlined": Capability(
        "lookups in per-CPU arrays are inlined, where the architecture's JIT can (bpf_jit_supports_percpu_insn())",
        "6.10",
        "commit db69718b8efa",
        percpu_array_inlined,
        "BPF_JIT",
        is_part=True,
    ),
    "for_each_map_elem": Capability("programs walk over maps", "5.13", "commit 69c087ba6225", helper(164)),
    "syscall_programs": Capability(
        "programs make system calls", "5.14", "commit 79a7f8bdb159", loads("syscall", prog_flags=uapi.SLEEPABLE)
    ),
    "sleepable_outer": Capability(
        "a sleepable (syscall) program uses an outer map", "5.14", "commit 79a7f8bdb159", sleepable_outer
    ),
    "timers": Capability("programs set timers in map values", "5.15", "commit b00628b1c7d5", helper(169)),
    "timer_programs": Capability(
        "the verifier accepts programs that initialise timers",
        "5.15",
        "commit b00628b1c7d5",
        timer_programs,
        "!PREEMPT_RT",
    ),
    "timer_memory": Capability(
        "programs initialise timers",
        "5.15",
        "commit b00628b1c7d5",
        timer_memory,
        "HAVE_CMPXCHG_DOUBLE !PREEMPT_RT",
    ),
    "outer_batch_ops": Capability("outer maps have batch commands", "5.19", "commit 9263dddc7b6f", outer_batch),
    "lookup_percpu_elem": Capability(
        "programs read other CPUs' values of a per-CPU map", "5.19", "commit 07343110b293", helper(195)
    ),
    "inner_spin_lock": Capability(
        "the template's value may hold a bpf_spin_lock",
        "6.2",
        "no map_value_has_spin_lock() in bpf_map_meta_alloc()",
        inner_spin_lock,
    ),
    "struct_btf_counts": Capability(
        "an inner map's value has BTF of a struct if and only if the template's has (timer_off is compared)",
        "5.15",
        "timer_off in bpf_map_meta_equal()",
        struct_btf_counts,
        until="6.2",
    ),
    "percpu_array_size_counts": Capability(
        "an inner per-CPU array has the template's max_entries, unlike other inner maps",
        "7.1",
        "percpu_array_map_ops.map_meta_equal",
        percpu_array_size_counts,
    ),
    "elided_null_check": Capability(
        "a constant key of an inner array of any size needs no null check, which is a mistake",
        "6.14",
        "get_constant_map_key() in kernel/bpf/verifier.c",
        elided_null_check,
        until="7.2",
        fixes=("7.1.7",),
    ),
    "exclusive_inner": Capability(
        "a map for one program alone may be an inner map, which is a mistake",
        "6.18",
        "no excl_prog_sha in bpf_map_meta_alloc()",
        exclusive_inner,
        until="7.2",
        fixes=("7.1.7",),
    ),
    "exclusive_maps": Capability(
        "a map may be for one program alone (excl_prog_hash)",
        "6.18",
        "excl_prog_hash in union bpf_attr",
        exclusive,
    ),
}
