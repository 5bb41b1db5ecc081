"""A Debian changelog, as the kernel's packages ship it."""

from __future__ import annotations

from harness.kernel.changelog import ChangelogEntry, between, relevant
from harness.kernel.version import KernelVersion

CHANGELOG = """\
linux-signed-amd64 (6.12.116+1) trixie-security; urgency=high

  * Sign kernel from linux 6.12.116-1

  * New upstream stable update:
    https://www.kernel.org/pub/linux/kernel/v6.x/ChangeLog-6.12.116
    - xen-blkback: Avoid UAF when reading I/O statistics (CVE-2026-100082)

 -- Salvatore Bonaccorso <carnil@debian.org>  Sat, 07 Nov 2026 09:40:59 +0100

linux (6.12.115-2) trixie-security; urgency=high

  * [s390x] Revert "s390/uv: Don't return 0 from make_hva_secure() if the
    operation was not successful"

 -- Salvatore Bonaccorso <carnil@debian.org>  Sun, 01 Nov 2026 06:25:35 +0100

linux (6.12.115-1) trixie-security; urgency=high

  * New upstream stable update:
    https://www.kernel.org/pub/linux/kernel/v6.x/ChangeLog-6.12.114
    - team: fix NULL pointer dereference in team_xmit during mode change
      (CVE-2026-64190)
    - bpf: Mark bpf_refcount field as unique (CVE-2026-100074)
    - bpf: Preserve inner map identity in callback frames (CVE-2026-98033)

 -- Salvatore Bonaccorso <carnil@debian.org>  Sat, 31 Oct 2026 21:40:59 +0100

linux (6.12.113-1) trixie-security; urgency=high

  * New upstream stable update:
    https://www.kernel.org/pub/linux/kernel/v6.x/ChangeLog-6.12.112
    - bpf: Reject key-less BTF for hash maps

 -- Salvatore Bonaccorso <carnil@debian.org>  Fri, 16 Oct 2026 21:40:59 +0100

linux (6.12~rc6-1~exp1) experimental; urgency=medium

  * New upstream release candidate

 -- Salvatore Bonaccorso <carnil@debian.org>  Fri, 16 Oct 2024 21:40:59 +0100
"""


def found(after: str, until: str) -> list[ChangelogEntry]:
    return between(CHANGELOG, KernelVersion.parse(after), KernelVersion.parse(until))


def test_the_changes_between_two_releases_are_those_of_all_uploads_between() -> None:
    entries = found("6.12.113", "6.12.115")
    assert {entry.revision for entry in entries} == {"6.12.115-2", "6.12.115-1"}
    assert "bpf: Reject key-less BTF for hash maps" not in [entry.text for entry in entries]
    assert found("6.12.113", "6.12.114") == []
    assert found("6.11", "6.12-rc6") == [ChangelogEntry("6.12~rc6-1~exp1", "New upstream release candidate")]


def test_a_heading_over_several_lines_is_one() -> None:
    texts = [entry.text for entry in found("6.12.113", "6.12.116")]
    assert "team: fix NULL pointer dereference in team_xmit during mode change (CVE-2026-64190)" in texts
    assert "xen-blkback: Avoid UAF when reading I/O statistics (CVE-2026-100082)" in texts


def test_changes_of_bpf_come_first_that_speak_of_the_behaviour() -> None:
    entries = relevant(found("6.12.112", "6.12.116"), ["an", "inner", "map", "in", "a", "callback", "frame"])
    assert [entry.text for entry in entries] == [
        "bpf: Preserve inner map identity in callback frames (CVE-2026-98033)",
        "bpf: Reject key-less BTF for hash maps",
        "bpf: Mark bpf_refcount field as unique (CVE-2026-100074)",
    ]
