/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Traces system calls by user. The outer map is keyed by user id; each inner map holds the system calls to report for
 * that user. The outer map has no inner map here: the loader gives it a template before it loads the object.
 */
#include "harness.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} traced SEC(".maps");

struct sys_enter {
	__u64 common;
	__s64 id;
	__u64 args[6];
};

SEC("tracepoint/raw_syscalls/sys_enter")
int trace_sys_enter(struct sys_enter *ctx)
{
	__u32 uid = (__u32)bpf_get_current_uid_gid();
	__u32 nr = (__u32)ctx->id;
	void *calls = bpf_map_lookup_elem(&traced, &uid);

	if (calls && bpf_map_lookup_elem(calls, &nr))
		bpf_printk("syscall %u called by uid %u", nr, uid);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
