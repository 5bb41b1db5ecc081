#include "harness.h"
char LICENSE[] SEC("license") = "Dual MIT/GPL";
static void *(*const current_task)(void) = (void *)35;
static long (*const probe_read_kernel)(void *dst, __u32 size, const void *from) = (void *)113;
struct task_struct { int pid; int no_such_field; } __attribute__((preserve_access_index));
SEC("raw_tp/sys_enter") int known(void *ctx)
{
	struct task_struct *task = current_task();
	int pid = 0;
	probe_read_kernel(&pid, sizeof(pid), &task->pid);
	return pid;
}
SEC("raw_tp/sys_enter") int unknown(void *ctx)
{
	struct task_struct *task = current_task();
	int value = 0;
	probe_read_kernel(&value, sizeof(value), &task->no_such_field);
	return value;
}
