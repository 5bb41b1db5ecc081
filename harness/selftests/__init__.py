"""`harness selftests`: the kernel's own tests (tools/testing/selftests), run on clones of each kernel."""
