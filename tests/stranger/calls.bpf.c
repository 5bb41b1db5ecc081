/* SPDX-License-Identifier: MIT */
/* Counts system calls of users that are watched, for each user in a map of its own. */
#include "harness.h"

struct calls {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 512);
	__type(key, __u32);
	__type(value, __u64);
} watched_root SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 16);
	__type(key, __u32);
	__array(values, struct calls);
} by_user SEC(".maps") = {
	.values = { [0] = &watched_root },
};

struct raw_tracepoint_args {
	__u64 args[2];
};

SEC("raw_tp/sys_enter")
int count_call(struct raw_tracepoint_args *ctx)
{
	__u32 user = (__u32)bpf_get_current_uid_gid(), number = (__u32)ctx->args[1];
	void *calls = bpf_map_lookup_elem(&by_user, &user);
	__u64 *count = calls ? bpf_map_lookup_elem(calls, &number) : 0;

	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
