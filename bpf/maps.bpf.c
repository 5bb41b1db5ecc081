/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* An iterator over all maps of the kernel (5.8 and later): writes its number in the walk for each. */
#include "harness.h"

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
};

struct bpf_iter__bpf_map {
	struct bpf_iter_meta *meta;
	void *map;
};

SEC("iter/bpf_map")
int each_map(struct bpf_iter__bpf_map *ctx)
{
	__u64 number = ctx->meta->seq_num;

	if (ctx->map)
		bpf_seq_write(ctx->meta->seq, &number, sizeof(number));
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
