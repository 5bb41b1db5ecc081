/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Outer maps whose inner maps are named in the source: libbpf creates and inserts them. */
#include "harness.h"

struct numbers {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} first SEC(".maps"), second SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4);
	__type(key, __u32);
	__array(values, struct numbers);
} array_outer SEC(".maps") = {
	.values = { [1] = &first, [3] = &second },
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 4);
	__type(key, __u32);
	__array(values, struct numbers);
} hash_outer SEC(".maps") = {
	.values = { [0] = &second, [2] = &first },
};

/* Sum of element 0 of the maps that `array_outer` holds at 1 and 3. */
SEC("socket")
int sum(void *ctx)
{
	__u32 slots[] = { 1, 3 }, zero = 0;
	__u64 total = 0;

#pragma unroll
	for (int i = 0; i < 2; i++) {
		void *inner = bpf_map_lookup_elem(&array_outer, &slots[i]);
		__u64 *value;

		if (!inner)
			continue;
		value = bpf_map_lookup_elem(inner, &zero);
		if (value)
			total += *value;
	}
	return (int)total;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
