"""What starts a script."""

from __future__ import annotations

import pytest

from harness.image import script


@pytest.mark.parametrize(
    ("start", "found"),
    [
        (b"#!/bin/sh\nexit 1\n", ["/bin/sh"]),
        (b"#! /bin/sh -e\n", ["/bin/sh"]),
        (b"#!/usr/bin/env python3\n", ["/usr/bin/env", "python3"]),
        (b"#!/usr/bin/env -S python3 -u\n", ["/usr/bin/env", "python3"]),
        (b"#!/usr/bin/env -Spython3 -u\n", ["/usr/bin/env", "python3"]),
        (b"#!/usr/bin/env\n", ["/usr/bin/env"]),
        (b"#!\n", []),
        (b"#!", []),
        (b"\x7fELF", None),
        (b"", None),
    ],
)
def test_starters(start: bytes, found: list[str] | None) -> None:
    assert script.starters(start) == found


def test_python_has_many_names() -> None:
    assert all(script.is_python(name) for name in ("python3", "/usr/bin/python3.11", script.PYTHON))
    assert not script.is_python("/bin/sh")
