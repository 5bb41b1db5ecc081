/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Walks over every element of an inner map (bpf_for_each_map_elem, 5.13 and later). */
#include "harness.h"

struct inner {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 8);
	__type(key, __u32);
	__array(values, struct inner);
} outer SEC(".maps");

static long add_value(void *map, __u32 *key, __u64 *value, __u64 *total)
{
	*total += *value;
	return 0;
}

SEC("socket")
int total_of_inner(void *ctx)
{
	__u32 slot = 7;
	__u64 total = 0;
	void *inner = bpf_map_lookup_elem(&outer, &slot);

	if (inner)
		bpf_for_each_map_elem(inner, add_value, &total, 0);
	return (int)total;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
