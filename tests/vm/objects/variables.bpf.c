#include "harness.h"
char LICENSE[] SEC("license") = "Dual MIT/GPL";
const volatile __u32 limit = 0;
const volatile char name[16] = "";
static volatile char late;
/* The verifier sees constants: without the right values it meets a read from an address that is a number. */
SEC("socket") int maps_the_value(void *ctx)
{
	if (limit == 3 && name[0] == 'l' && name[1] == 'o' && name[2] == 0)
		return late;
	return *(volatile int *)(long)8;
}
