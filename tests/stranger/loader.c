/* SPDX-License-Identifier: MIT */
/* The same in C, linked with libbpf; its few functions are declared here, so that no header is needed. */
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

struct bpf_object *bpf_object__open(const char *path);
int bpf_object__load(struct bpf_object *object);
struct bpf_program *bpf_object__find_program_by_name(const struct bpf_object *object, const char *name);
struct bpf_map *bpf_object__find_map_by_name(const struct bpf_object *object, const char *name);
struct bpf_link *bpf_program__attach(const struct bpf_program *program);
int bpf_map__fd(const struct bpf_map *map);
int bpf_map_lookup_elem(int fd, const void *key, void *value);

int main(int argc, char **argv)
{
	struct bpf_object *object = argc == 2 ? bpf_object__open(argv[1]) : NULL;
	uint32_t key = SYS_getppid;
	uint64_t value = 0;

	if (!object || bpf_object__load(object)) {
		fprintf(stderr, "cannot load the object\n");
		return 1;
	}
	if (!bpf_program__attach(bpf_object__find_program_by_name(object, "count_call"))) {
		fprintf(stderr, "cannot attach\n");
		return 1;
	}
	for (int i = 0; i < 5; i++)
		syscall(SYS_getppid);
	bpf_map_lookup_elem(bpf_map__fd(bpf_object__find_map_by_name(object, "watched_root")), &key, &value);
	printf("seen %llu\n", (unsigned long long)value);
	return 0;
}
