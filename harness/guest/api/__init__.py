"""The kernel's API as the guest calls it: bpf(2), libbpf, bcc, programs and BTF made by hand."""
