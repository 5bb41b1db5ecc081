#include "harness.h"
char LICENSE[] SEC("license") = "Dual MIT/GPL";
SEC("socket") int a1(void *ctx) { return 0; }
/* Just below the limit of a million instructions. */
SEC("xdp") int slow(void *ctx)
{
	volatile __u32 sum = 0;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < 120000; i++)
		sum = sum * 3 + i;
	return sum;
}
SEC("tc") int a3(void *ctx) { return 0; }
