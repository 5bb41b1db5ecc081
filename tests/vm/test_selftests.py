"""`harness selftests`, with a small tree: arguments, the kernel's types and configuration, results."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import main
from harness.kernel.types import Choice
from harness.results.file import read
from harness.results.outcomes import Outcome
from tests.needs import needs_program

TESTS = {
    "lib.mk": "all: $(TEST_GEN_FILES)\n",
    "bpf/Makefile": """
TEST_PROGS := good.sh bad.sh
TEST_GEN_FILES := $(OUTPUT)/types
include ../lib.mk
$(OUTPUT)/types: $(VMLINUX_BTF)
\tcp $< $@
""",
    "bpf/good.sh": """#!/bin/sh
cmp types /sys/kernel/btf/vmlinux && test "$*" = "-t one two" && test -s "/boot/config-$(uname -r)"
""",
    "bpf/bad.sh": """#!/bin/sh
echo "#1/1 first:OK"
echo "#1/2 second:FAIL"
echo "Summary: 0/1 PASSED, 0 SKIPPED, 1 FAILED"
exit 1
""",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("make", "gcc"):
        needs_program(name)
    tree = tmp_path / "tree"
    for name, text in {
        "Makefile": "VERSION = 6\nPATCHLEVEL = 1\nheaders:\n\tmkdir -p $(O)/usr/include\n",
        "Kconfig": "",
        "scripts/Makefile.lib": "",
        "kernel/bpf/Makefile": "",
        **{f"tools/testing/selftests/{name}": text for name, text in TESTS.items()},
    }.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    return tree


@pytest.mark.kernel(">=5.10")  # Debian's kernels have types from there on
def test_tests_get_their_arguments_and_the_types_of_the_kernel_that_they_run_on(
    kernel_choice: Choice, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "r.json"
    words = ["--source", str(tree), "--kernel", kernel_choice.label, "--args", "-t 'one two'", "--record", str(record)]
    assert main(["selftests", *words, "bpf"]) == 1
    printed = capsys.readouterr()
    assert f"with the types (BTF) of {kernel_choice.label}" in printed.err
    assert [(result.test, result.outcome) for result in read(record).results] == [
        ("bpf:good.sh", Outcome.PASSED),
        ("bpf:bad.sh::first", Outcome.PASSED),
        ("bpf:bad.sh::second", Outcome.FAILED),
        ("bpf:bad.sh", Outcome.FAILED),
    ]
