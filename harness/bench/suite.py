"""The files of tests that are timed as a whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TEST_FILE = """
import pytest

{mark}

def test_one_test(bpf):
    assert bpf.map("hash", key_size=4, value_size=4, max_entries=8).fd > 2

@pytest.mark.parametrize("number", range({count}))
def test_many(bpf, number):
    inner = bpf.map("hash", key_size=4, value_size=4, max_entries=8)
    outer = bpf.map("hash_of_maps", max_entries=4, inner=inner)
    outer[number] = inner
    assert outer.lookup(number) == inner.id
"""


@contextmanager
def suite(count: int, mark: str = "") -> Iterator[Path]:
    """Yield a folder with a file of tests, for the time of a with statement.

    Args:
        count: Number of tests.
        mark: A line of Python that marks all of them.
    """
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        (Path(folder) / "test_bench.py").write_text(_TEST_FILE.format(count=count - 1, mark=mark))
        yield Path(folder)


_PROGRAM = """
SEC("socket") int program_{number}(struct __sk_buff *skb)
{{
    volatile int sum = 0;
    for (int i = 0; i < {rounds}; i++)
        sum += i;
    return sum;
}}
"""


@contextmanager
def bpf_source(programs: int, rounds: int) -> Iterator[Path]:
    """Yield the C source of a BPF object, for the time of a with statement.

    Args:
        programs: Number of programs.
        rounds: How often each goes through its loop.
    """
    head = "#include <linux/bpf.h>\n#define SEC(name) __attribute__((section(name), used))\n"
    tail = 'char _license[] SEC("license") = "GPL";\n'
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        path = Path(folder) / f"programs_{programs}.bpf.c"
        path.write_text(
            head + "".join(_PROGRAM.format(number=number, rounds=rounds) for number in range(programs)) + tail
        )
        yield path


@contextmanager
def plain_suite(count: int) -> Iterator[Path]:
    """Yield a folder with tests that use no kernel, for the time of a with statement.

    Args:
        count: Number of tests.
    """
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        tests = "\n\n".join(f"def test_{number}():\n    assert {number} >= 0" for number in range(count))
        (Path(folder) / "test_plain.py").write_text(tests)
        yield Path(folder)


@contextmanager
def root_files(mib: int) -> Iterator[Path]:
    """Yield a folder for a root file system, for the time of a with statement.

    Args:
        mib: MiB of files in it.
    """
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        for number in range(mib):
            (Path(folder) / f"file_{number}").write_bytes(os.urandom(1 << 20))
        yield Path(folder)
