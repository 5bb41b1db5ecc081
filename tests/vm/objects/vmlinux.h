/* A small part of what `bpftool btf dump file /sys/kernel/btf/vmlinux format c` prints. */
typedef unsigned char __u8;
typedef unsigned short __u16, __be16, __sum16;
typedef int __s32;
typedef unsigned int __u32, __be32, __wsum;
typedef long long __s64;
typedef unsigned long long __u64;
struct my { __u32 x; };
