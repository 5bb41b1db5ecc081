"""The kernel's API, called in the guest: bpf(2), libbpf, bcc, hand-made programs and BTF."""
