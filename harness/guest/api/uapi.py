"""Numbers of BPF's user API by name: types of maps, programs and attachments, flags, helpers.

From include/uapi/linux/bpf.h. Pure: the host and guest functions may both import it.
"""

from __future__ import annotations


def _numbers(names: str) -> dict[str, int]:
    return {name: number for number, name in enumerate(names.split())}


MAP_TYPES = _numbers(
    "unspec hash array prog_array perf_event_array percpu_hash percpu_array stack_trace cgroup_array lru_hash "
    "lru_percpu_hash lpm_trie array_of_maps hash_of_maps devmap sockmap cpumap xskmap sockhash cgroup_storage "
    "reuseport_sockarray percpu_cgroup_storage queue stack sk_storage devmap_hash struct_ops ringbuf inode_storage "
    "task_storage bloom_filter user_ringbuf cgrp_storage arena insn_array rhash"
)
PROG_TYPES = _numbers(
    "unspec socket_filter kprobe sched_cls sched_act tracepoint xdp perf_event cgroup_skb cgroup_sock lwt_in lwt_out "
    "lwt_xmit sock_ops sk_skb cgroup_device sk_msg raw_tracepoint cgroup_sock_addr lwt_seg6local lirc_mode2 "
    "sk_reuseport flow_dissector cgroup_sysctl raw_tracepoint_writable cgroup_sockopt tracing struct_ops ext lsm "
    "sk_lookup syscall netfilter"
)
ATTACH_TYPES = _numbers(
    "cgroup_inet_ingress cgroup_inet_egress cgroup_inet_sock_create cgroup_sock_ops sk_skb_stream_parser "
    "sk_skb_stream_verdict cgroup_device sk_msg_verdict cgroup_inet4_bind cgroup_inet6_bind cgroup_inet4_connect "
    "cgroup_inet6_connect cgroup_inet4_post_bind cgroup_inet6_post_bind cgroup_udp4_sendmsg cgroup_udp6_sendmsg "
    "lirc_mode2 flow_dissector cgroup_sysctl cgroup_udp4_recvmsg cgroup_udp6_recvmsg cgroup_getsockopt "
    "cgroup_setsockopt trace_raw_tp trace_fentry trace_fexit modify_return lsm_mac trace_iter "
    "cgroup_inet4_getpeername cgroup_inet6_getpeername cgroup_inet4_getsockname cgroup_inet6_getsockname xdp_devmap "
    "cgroup_inet_sock_release xdp_cpumap sk_lookup xdp sk_skb_verdict sk_reuseport_select "
    "sk_reuseport_select_or_migrate perf_event trace_kprobe_multi lsm_cgroup struct_ops netfilter tcx_ingress "
    "tcx_egress"
)

ANY, NOEXIST, EXIST, LOCK = 0, 1, 2, 4
"""Flags of an update."""

NO_PREALLOC, NO_COMMON_LRU, NUMA_NODE, RDONLY, WRONLY = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4
STACK_BUILD_ID, ZERO_SEED, RDONLY_PROG, WRONLY_PROG, CLONE = 1 << 5, 1 << 6, 1 << 7, 1 << 8, 1 << 9
MMAPABLE, PRESERVE_ELEMS, INNER_MAP = 1 << 10, 1 << 11, 1 << 12
"""Flags of a map (map_flags)."""

SLEEPABLE = 1 << 4
"""A flag of a program (prog_flags)."""

# The helpers that tests of maps use; call others by number.
HELPERS = {
    "map_lookup_elem": 1,
    "map_update_elem": 2,
    "map_delete_elem": 3,
    "probe_read": 4,
    "ktime_get_ns": 5,
    "trace_printk": 6,
    "get_prandom_u32": 7,
    "get_smp_processor_id": 8,
    "tail_call": 12,
    "get_current_pid_tgid": 14,
    "get_current_uid_gid": 15,
    "get_current_comm": 16,
    "redirect": 23,
    "perf_event_output": 25,
    "skb_load_bytes": 26,
    "get_stackid": 27,
    "redirect_map": 51,
    "get_local_storage": 81,
    "map_push_elem": 87,
    "map_pop_elem": 88,
    "map_peek_elem": 89,
    "spin_lock": 93,
    "spin_unlock": 94,
    "sk_storage_get": 107,
    "ringbuf_output": 130,
    "ringbuf_reserve": 131,
    "ringbuf_submit": 132,
    "ringbuf_discard": 133,
    "copy_from_user": 148,
    "for_each_map_elem": 164,
    "sys_bpf": 166,
    "sys_close": 168,
    "timer_init": 169,
    "timer_set_callback": 170,
    "timer_start": 171,
    "timer_cancel": 172,
    "loop": 181,
    "map_lookup_percpu_elem": 195,
}
