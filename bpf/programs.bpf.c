/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * One program of each kind that uses an outer map: look up the outer map, then in the inner map read, add, update and
 * delete. `outer` may be of either type; it is filled by the loader.
 */
#include "harness.h"

#ifndef OUTER_TYPE
#define OUTER_TYPE BPF_MAP_TYPE_HASH_OF_MAPS
#endif

struct inner {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
};

struct {
	__uint(type, OUTER_TYPE);
	__uint(max_entries, 8);
	__type(key, __u32);
	__array(values, struct inner);
} outer SEC(".maps");

/* In the inner map at 7: add one to element 1, write 20 to element 2, delete element 3; return element 1, or 0. */
static __always_inline int use_inner(void)
{
	__u32 slot = 7, counted = 1, written = 2, deleted = 3;
	__u64 value = 20, *count;
	void *inner = bpf_map_lookup_elem(&outer, &slot);

	if (!inner)
		return 0;
	bpf_map_update_elem(inner, &written, &value, BPF_ANY);
	bpf_map_delete_elem(inner, &deleted);
	count = bpf_map_lookup_elem(inner, &counted);
	if (!count)
		return 0;
	__sync_fetch_and_add(count, 1);
	return (int)*count;
}

SEC("socket")
int use_in_socket_filter(void *ctx)
{
	return use_inner();
}

SEC("tc")
int use_in_tc(void *ctx)
{
	return use_inner();
}

SEC("xdp")
int use_in_xdp(void *ctx)
{
	return use_inner();
}

SEC("raw_tp/sys_enter")
int use_in_raw_tracepoint(void *ctx)
{
	use_inner();
	return 0;
}

/* Programs of this type came with 5.14; loaded where the loader asks for it. */
SEC("?syscall")
int use_in_syscall(__u32 *ctx)
{
	*ctx = use_inner();
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
