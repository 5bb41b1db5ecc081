"""The snapshot provider against a snapshot service on 127.0.0.1, with good answers and bad ones."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import HarnessError, MirrorError, SelectorError, ToolMissing
from harness.kernel import cache as kernel_cache
from harness.kernel.catalog import Catalog
from harness.kernel.files import download
from harness.kernel.providers import debian_archive
from harness.kernel.providers.debian import DebianProvider
from harness.kernel.providers.snapshot import SignedIndex, places
from harness.kernel.types import Kernel
from tests.servers.http import Fault, Server, serve
from tests.servers.snapshot import Snapshot
from tests.unit.kernel.kernel_fakes import CONFIG, Signer, deb, kernel_image

BIG = {"usr/share/doc/padding": bytes(range(256)) * 600}


def image(release: str, revision: str) -> bytes:
    """A package with everything in it, large enough to hold a kernel."""
    files = {
        f"boot/vmlinuz-{release}": kernel_image(release, f"#1 SMP Debian {revision}"),
        f"boot/config-{release}": CONFIG.encode(),
        f"lib/modules/{release}/kernel/m.ko": b"module",
    }
    content = deb({**files, **BIG}, compression="")
    assert len(content) > 100_000
    return content


def add(service: Snapshot, version: str, revision: str, flavours: tuple[str, ...] = ("cloud-amd64", "amd64")) -> None:
    for flavour in flavours:
        release = f"{version}-{flavour}"
        service.add(f"linux-image-{release}-unsigned", revision, image(release, revision))


@pytest.fixture
def web() -> Iterator[Server]:
    """A web server without sites."""
    with serve() as running:
        yield running


@pytest.fixture
def service(web: Server, signers: tuple[Signer, Signer], monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    """A service with a few versions, which the settings name."""
    made = Snapshot(signers[0])
    web.sites["snapshot"] = made
    monkeypatch.setenv("HARNESS_DEBIAN_SNAPSHOT", f"{web.url}/snapshot")
    monkeypatch.setenv("HARNESS_DEBIAN_KEYRING", str(signers[0].keyring))
    monkeypatch.setattr(download, "wait", lambda _seconds: None)
    # Asking a mirror by way of apt takes seconds; here the archive has no kernels.
    monkeypatch.setattr(DebianProvider, "offers", lambda _self, **_arguments: [])
    add(made, "6.6.9", "6.6.9-1")
    add(made, "6.6.15", "6.6.15-2")
    add(made, "6.7.12", "6.7.12-1")
    return made


def acquire(selector: str, said: list[str] | None = None) -> Kernel:
    lines: list[str] = said if said is not None else []
    catalog = Catalog(progress=lines.append)
    [choice] = catalog.resolve([selector])
    return catalog.acquire(choice)


def test_a_series_is_found_with_two_requests_and_verified_with_five(service: Snapshot, web: Server) -> None:
    said: list[str] = []
    catalog = Catalog(progress=said.append)
    [choice] = catalog.resolve(["6.6"])
    assert (choice.provider, choice.key, choice.flavour) == ("snapshot", "6.6.15-cloud-amd64=6.6.15-2", "cloud")
    assert len(web.requests) == 2
    kernel = catalog.acquire(choice)
    assert (str(kernel.version), kernel.release) == ("6.6.15", "6.6.15-cloud-amd64")
    assert kernel.modules is not None
    packages = [path for path in web.requests if path.endswith(".deb")]
    assert len(packages) == 1
    assert len(web.requests) - len(packages) <= 5
    assert web.most_at_once == 1
    assert any("was valid until" in line and "accepted" in line for line in said)


def test_what_was_found_is_not_asked_again(service: Snapshot, web: Server) -> None:
    first = acquire("6.6")
    before = len(web.requests)
    assert acquire("6.6") == first
    assert len(web.requests) == before
    kernel_cache.discard(kernel_cache.entry_folder("snapshot", "6.6.15-cloud-amd64=6.6.15-2"))
    assert acquire("6.6") == first
    assert [path for path in web.requests[before:] if not path.endswith(".deb")] == []


@pytest.mark.parametrize(
    ("selector", "key"),
    [
        ("6.6:generic", "6.6.15-amd64=6.6.15-2"),
        ("6.6.9", "6.6.9-cloud-amd64=6.6.9-1"),
        ("6.6.9-1", "6.6.9-cloud-amd64=6.6.9-1"),
        ("snapshot:6.7", "6.7.12-cloud-amd64=6.7.12-1"),
    ],
)
def test_kernels_are_named_as_everywhere(service: Snapshot, selector: str, key: str) -> None:
    assert [choice.key for choice in Catalog().resolve([selector])] == [key]


def test_every_release_and_ranges_are_for_those_who_name_the_provider(service: Snapshot) -> None:
    catalog = Catalog()
    assert [str(one.version) for one in catalog.resolve(["snapshot:6.6.*"])] == ["6.6.9", "6.6.15"]
    assert [one.label for one in catalog.resolve(["snapshot:>=6.6,<6.8"])] == ["6.6", "6.7"]
    with pytest.raises(SelectorError, match="no kernel matches"):
        catalog.resolve([">=6.6,<6.8"])


def test_lists_in_another_order_give_the_same(service: Snapshot) -> None:
    service.newest_first = False
    assert [choice.key for choice in Catalog().resolve(["6.6"])] == ["6.6.15-cloud-amd64=6.6.15-2"]


def test_an_older_release_serves_when_the_newest_has_no_binaries(service: Snapshot) -> None:
    service.add("linux-doc-6.6", "6.6.20-1", deb({}), architecture="all")
    assert [choice.key for choice in Catalog().resolve(["6.6"])] == ["6.6.15-cloud-amd64=6.6.15-2"]


def test_an_old_kernel_without_a_cloud_flavour(service: Snapshot) -> None:
    name = "linux-image-4.14.0-3-amd64"
    service.add(name, "4.14.17-1", image("4.14.0-3-amd64", "4.14.17-1"), seen="20180214T214500Z")
    kernel = acquire("4.14")
    assert (kernel.release, kernel.flavour, str(kernel.version)) == ("4.14.0-3-amd64", "generic", "4.14.17")


def test_a_file_that_an_index_lists_a_day_later_is_found(service: Snapshot, web: Server) -> None:
    revision = "6.8.9-1"
    content = image("6.8.9-cloud-amd64", revision)
    service.add(
        "linux-image-6.8.9-cloud-amd64-unsigned", revision, content, seen="20240512T031500Z", indexed="20240512T211500Z"
    )
    assert acquire("6.8").release == "6.8.9-cloud-amd64"
    assert any("/20240512T211500Z/" in path for path in web.requests)


def test_backports_and_release_candidates_are_in_their_suites(service: Snapshot) -> None:
    for release, revision, suite in (
        ("6.9.7+bpo-cloud-amd64", "6.9.7-1~bpo12+1", "bookworm-backports"),
        ("6.10-rc7-cloud-amd64", "6.10~rc7-1~exp1", "experimental"),
    ):
        service.add(f"linux-image-{release}-unsigned", revision, image(release, revision), suite=suite)
    assert acquire("6.9").release == "6.9.7+bpo-cloud-amd64"
    assert acquire("6.10-rc7").release == "6.10-rc7-cloud-amd64"


@pytest.mark.parametrize(
    ("revision", "archive", "expected"),
    [
        ("6.6.15-2", "debian", "sid"),
        ("6.9.7-1~bpo12+1", "debian", "bookworm-backports"),
        ("6.10~rc7-1~exp1", "debian", "experimental"),
        ("4.19.304-1", "debian-security", "buster/updates"),
        ("5.10.209-2", "debian-security", "bullseye-security"),
        ("4.19.37-5+deb10u2", "debian-security", "buster/updates"),
    ],
)
def test_the_first_place_to_look_at(revision: str, archive: str, expected: str) -> None:
    infos = [{"archive_name": archive, "first_seen": "20240301T031500Z"}]
    assert next(places(revision, infos, debian_archive.settings())) == SignedIndex(
        archive, "20240301T031500Z", expected
    )


# bad answers


def test_an_unknown_series_says_what_every_provider_said(service: Snapshot) -> None:
    with pytest.raises(SelectorError) as caught:
        Catalog().resolve(["6.66"])
    assert "snapshot: has no such kernel" in str(caught.value)


def test_a_file_that_is_gone_in_the_middle(service: Snapshot, web: Server) -> None:
    web.faults["*.deb"] = Fault(status=404)
    with pytest.raises(MirrorError, match=r"snapshot no longer serves 6\.6\.15-cloud-amd64=6\.6\.15-2") as caught:
        acquire("6.6")
    assert "the server is named by HARNESS_DEBIAN_SNAPSHOT" in caught.value.hint


@pytest.mark.parametrize(
    ("pattern", "fault", "message"),
    [
        ("*.deb", Fault(changed=True), "is not the file that its index names"),
        ("*.deb", Fault(cut=5000), "truncated|could not be fetched"),
        ("*.deb", Fault(html=True), "is a web page"),
        ("*.deb", Fault(endless=True), "is not the file that its index names"),
        ("*/Packages*", Fault(changed=True), "is not the file that its index names"),
        ("*/Packages*", Fault(status=404), "not served"),
        ("*/InRelease", Fault(changed=True), "is not valid"),
        ("*/InRelease", Fault(html=True), "is not valid: there is none that can be read"),
        ("*/InRelease", Fault(endless=True), "more than"),
        ("*/binfiles", Fault(html=True), "is not JSON"),
        ("*/binfiles", Fault(location="loop"), "redirects"),
        ("*/binfiles", Fault(status=500), "500"),
        ("*/binfiles", Fault(cut=20), "truncated|could not be fetched"),
    ],
)
def test_a_bad_answer_is_the_services_and_leaves_nothing(
    service: Snapshot, web: Server, pattern: str, fault: Fault, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SMALL", 1 << 20)
    web.faults[pattern] = fault
    with pytest.raises(MirrorError, match=message) as caught:
        acquire("6.6")
    assert "HARNESS_DEBIAN_SNAPSHOT" in caught.value.hint
    assert list((kernel_cache.folder() / "store").glob("*")) == []
    web.faults.clear()
    assert acquire("6.6").release == "6.6.15-cloud-amd64"


def test_a_download_that_broke_off_goes_on(service: Snapshot, web: Server) -> None:
    web.faults["*.deb"] = Fault(cut=50_000, times=1)
    with pytest.raises(MirrorError):
        acquire("6.6")
    assert acquire("6.6").release == "6.6.15-cloud-amd64"


def test_a_service_that_stops_sending_is_given_up(
    service: Snapshot, web: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", (10.0, 0.2))
    web.faults["*/InRelease"] = Fault(pause=1.0)
    with pytest.raises(MirrorError, match="timed out"):
        acquire("6.6")


def test_a_slow_service_is_waited_for(service: Snapshot, web: Server) -> None:
    web.faults["*"] = Fault(pause=0.05)
    assert acquire("6.6").release == "6.6.15-cloud-amd64"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again_after_the_pause_it_names(
    service: Snapshot, web: Server, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(download, "wait", pauses.append)
    web.faults["*/mr/package/linux/"] = Fault(status=status, retry_after="7", times=2)
    assert acquire("6.6").release == "6.6.15-cloud-amd64"
    assert pauses == [7.0, 7.0]


def test_a_service_that_stays_busy_is_given_up(service: Snapshot, web: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(download, "wait", pauses.append)
    web.faults["*/mr/*"] = Fault(status=503)
    with pytest.raises(HarnessError, match="503"):
        Catalog().resolve(["snapshot:6.6"])
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0]


def test_a_list_of_yesterday_serves_when_the_service_does_not(
    service: Snapshot, web: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    Catalog().resolve(["6.6"])
    web.faults["*"] = Fault(status=500)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 25 * 3600)
    said: list[str] = []
    assert Catalog(progress=said.append).resolve(["6.6"])[0].key == "6.6.15-cloud-amd64=6.6.15-2"
    assert any("using the list of 25 hours ago" in line for line in said)


# signatures


def test_an_index_that_a_stranger_signed(service: Snapshot, signers: tuple[Signer, Signer]) -> None:
    service.sign = signers[1].sign
    with pytest.raises(MirrorError, match="not in the keyring") as caught:
        acquire("6.6")
    assert "removed.gpg, which is missing" in caught.value.hint


def test_keys_of_earlier_years_are_used_where_they_are(
    service: Snapshot, signers: tuple[Signer, Signer], monkeypatch: pytest.MonkeyPatch
) -> None:
    service.sign = signers[1].sign
    monkeypatch.setenv("HARNESS_DEBIAN_REMOVED_KEYS", str(signers[1].keyring))
    assert acquire("6.6").release == "6.6.15-cloud-amd64"


@pytest.fixture
def expired(signers: tuple[Signer, Signer]) -> Iterator[Signer]:
    """A key that was valid for a year, long ago."""
    home = signers[0].home.parent / "x"
    signer = Signer(home, "expired", when="20200101T000000", until="2021-01-01")
    yield signer
    signer.stop()


def test_a_key_that_expired_after_it_signed_is_good(
    service: Snapshot, expired: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.sign = lambda text: dataclasses.replace(expired, when="20200601T000000").sign(text)
    monkeypatch.setenv("HARNESS_DEBIAN_KEYRING", str(expired.keyring))
    said: list[str] = []
    assert acquire("6.6", said).release == "6.6.15-cloud-amd64"
    assert any("expired on 2021-01-01, after it had signed this" in line for line in said)


def test_a_signature_with_an_expiry_date_of_its_own_is_not(
    service: Snapshot, expired: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.sign = lambda text: dataclasses.replace(expired, when="20200601T000000").sign(text, lasts="10")
    monkeypatch.setenv("HARNESS_DEBIAN_KEYRING", str(expired.keyring))
    with pytest.raises(MirrorError, match="has an expiry date, and it has passed"):
        acquire("6.6")


def test_without_gpgv_the_message_names_it(service: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Path:
        raise ToolMissing(f"{name} is not installed")

    monkeypatch.setattr("harness.needs.program", missing)
    with pytest.raises(ToolMissing, match="gpgv is not installed"):
        acquire("6.6")
