"""The machine's own apt sources, in both formats, and the mirror found in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.kernel.providers.apt_sources import Source, find_mirror, parse_deb822, parse_one_line, read_machine

DEB822 = """\
Types: deb deb-src
# a comment between fields
URIs: http://mirror.example/debian/ http://second.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
 -----END PGP PUBLIC KEY BLOCK-----
"""

ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb http://old.example/debian bookworm main contrib # trailing words
deb-src http://old.example/debian bookworm main
  deb [arch=amd64 signed-by=/k/debian-archive-keyring.gpg] http://signed.example/d trixie main
deb [ trusted=yes ] file:/srv/repo ./
not a source
"""


def test_deb822() -> None:
    assert parse_deb822(DEB822) == [
        Source(
            ("http://mirror.example/debian/", "http://second.example/debian"),
            ("bookworm", "bookworm-updates"),
            ("main",),
            "/usr/share/keyrings/debian-archive-keyring.gpg",
        ),
        Source(("http://security.example/debian-security",), ("bookworm-security",), ("main",), ""),
    ]


def test_one_line() -> None:
    assert parse_one_line(ONE_LINE) == [
        Source(("http://old.example/debian",), ("bookworm",), ("main", "contrib"), ""),
        Source(("http://signed.example/d",), ("trixie",), ("main",), "/k/debian-archive-keyring.gpg"),
        Source(("file:/srv/repo",), ("./",), (), ""),
    ]


def test_all_files_of_a_machine_are_read(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://a/debian bookworm main\n")
    (tmp_path / "sources.list.d" / "b.list").write_text("deb http://b/debian bookworm main\n")
    (tmp_path / "sources.list.d" / "c.sources").write_text(
        "Types: deb\nURIs: http://c/debian\nSuites: sid\nComponents: main\n"
    )
    (tmp_path / "sources.list.d" / "d.save").write_text("deb http://d/debian bookworm main\n")
    assert [source.uris[0] for source in read_machine(tmp_path)] == [
        "http://a/debian",
        "http://b/debian",
        "http://c/debian",
    ]
    assert read_machine(tmp_path / "missing") == []


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ([], None),
        ([Source(("http://u/ubuntu",), ("jammy",), ("main",))], None),
        ([Source(("http://third.example/apt",), ("bookworm",), ("main",))], None),
        ([Source(("http://m/debian/",), ("bookworm",), ("main",))], ("http://m/debian", "")),
        ([Source(("http://m/debian",), ("bookworm",), ("contrib",))], None),
        (
            [
                Source(("http://other/debian",), ("bookworm",), ("main",), "/k/other.gpg"),
                Source(("http://m/x",), ("bookworm",), ("main",), "/k/debian-archive-keyring.gpg"),
            ],
            ("http://m/x", "/k/debian-archive-keyring.gpg"),
        ),
    ],
)
def test_which_source_is_the_mirror(sources: list[Source], expected: tuple[str, str] | None) -> None:
    assert find_mirror(sources, ["bookworm", "sid"], "main") == expected
