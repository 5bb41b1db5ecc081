"""What building selftests wants of this machine."""

from __future__ import annotations

from harness.selftests.tools import installs
from harness.util import architecture


def test_what_a_build_lacked_is_named_with_its_package() -> None:
    printed = (
        "cap.c:3:10: fatal error: sys/capability.h: No such file or directory\n"
        "/usr/bin/ld: cannot find -lnuma: No such file or directory\n/bin/sh: 1: clang: not found\n"
        "a.c:1:10: fatal error: own.h: No such file or directory\n"
    )
    assert [line.rpartition(": ")[2] for line in installs(printed, architecture.own())] == [
        "apt-get install libcap-dev",
        "apt-get install libnuma-dev",
        "apt-get install clang",
    ]


def test_what_a_build_for_another_architecture_lacked_is_in_packages_of_its_own() -> None:
    target = next(one for one in architecture.known().values() if not one.is_own)
    (line,) = installs("/usr/bin/ld: cannot find -lelf: No such file or directory\n", target)
    name = target.name
    how = f"dpkg --add-architecture {name} && apt-get update && apt-get install libelf-dev:{name}"
    assert line == f"cannot find -lelf: {how}"
