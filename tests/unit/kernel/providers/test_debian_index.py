"""From Packages text to kernels, on stanzas in the two ways in which Debian packages them."""

from __future__ import annotations

from harness.kernel.providers.debian_index import kernels, scan, sources, upstream
from harness.kernel.version import KernelVersion

SUFFIXES = {"cloud-amd64": "cloud", "amd64": "generic", "rt-amd64": "rt"}


def stanza(name: str, version: str, size: int, folder: str = "pool") -> str:
    return (
        f"Package: {name}\nSource: linux\nVersion: {version}\nArchitecture: amd64\n"
        f"Description: a kernel: with a colon\nFilename: {folder}/{name}_{version}_amd64.deb\n"
        f"Size: {size}\nSHA256: {len(name):064x}\n"
    )


def index(*stanzas: str) -> bytes:
    return "\n".join(stanzas).encode()


BIG = 20_000_000
OLD = index(
    stanza("bash", "5.2", BIG),
    stanza("linux-image-6.1.0-50-amd64", "6.1.176-1", BIG),
    stanza("linux-image-6.1.0-50-cloud-amd64", "6.1.176-1", BIG),
    stanza("linux-image-6.1.0-50-cloud-amd64-unsigned", "6.1.176-1", BIG),
    stanza("linux-image-6.1.0-50-cloud-amd64-dbg", "6.1.176-1", BIG),
    stanza("linux-image-6.1.0-50-rt-amd64", "6.1.176-1", BIG),
    stanza("linux-image-cloud-amd64", "6.1.176-1", 1500),
    stanza("linux-image-6.1-cloud-amd64", "6.1.176-1", 1500),
    stanza("linux-source-6.1", "6.1.176-1", BIG),
)
NEW = index(
    stanza("linux-image-7.2.9+deb14-cloud-amd64", "7.2.9-1", 1900),
    stanza("linux-base-7.2.9+deb14-cloud-amd64", "7.2.9-1", 400_000),
    stanza("linux-binary-7.2.9+deb14-cloud-amd64", "7.2.9-1", BIG),
    stanza("linux-binary-unsigned-7.2.9+deb14-cloud-amd64", "7.2.9-1", BIG),
    stanza("linux-modules-7.2.9+deb14-cloud-amd64", "7.2.9-1", BIG),
)


def names(text: bytes) -> dict[str, list[list[str]]]:
    found = kernels(scan(text, base="http://m", suite="sid"), SUFFIXES)
    return {kernel.key: [[package.name for package in one] for one in kernel.sets] for kernel in found}


def test_neighbouring_stanzas_are_all_seen() -> None:
    packages = scan(OLD, base="http://m/debian", suite="bookworm")
    assert [package.name for package in packages] == [
        "linux-image-6.1.0-50-amd64",
        "linux-image-6.1.0-50-cloud-amd64",
        "linux-image-6.1.0-50-cloud-amd64-unsigned",
        "linux-image-6.1.0-50-rt-amd64",
        "linux-image-6.1-cloud-amd64",
        "linux-source-6.1",
    ]
    assert packages[0].url == "http://m/debian/pool/linux-image-6.1.0-50-amd64_6.1.176-1_amd64.deb"
    assert packages[0].size == BIG


def test_kernel_inside_the_image_package_with_the_unsigned_twin_as_second_way() -> None:
    assert names(OLD) == {
        "6.1.0-50-amd64=6.1.176-1": [["linux-image-6.1.0-50-amd64"]],
        "6.1.0-50-cloud-amd64=6.1.176-1": [
            ["linux-image-6.1.0-50-cloud-amd64"],
            ["linux-image-6.1.0-50-cloud-amd64-unsigned"],
        ],
        "6.1.0-50-rt-amd64=6.1.176-1": [["linux-image-6.1.0-50-rt-amd64"]],
    }


def test_kernel_in_a_binary_package_beside_modules_and_configuration() -> None:
    rest = ["linux-modules-7.2.9+deb14-cloud-amd64", "linux-base-7.2.9+deb14-cloud-amd64"]
    assert names(NEW) == {
        "7.2.9+deb14-cloud-amd64=7.2.9-1": [
            ["linux-binary-7.2.9+deb14-cloud-amd64", *rest],
            ["linux-binary-unsigned-7.2.9+deb14-cloud-amd64", *rest],
        ]
    }


def test_flavours_by_the_longest_suffix() -> None:
    found = kernels(scan(OLD, base="", suite=""), SUFFIXES)
    assert {kernel.release: kernel.flavour for kernel in found} == {
        "6.1.0-50-amd64": "generic",
        "6.1.0-50-cloud-amd64": "cloud",
        "6.1.0-50-rt-amd64": "rt",
    }


def test_the_same_package_in_two_archives_is_one_kernel_with_two_ways() -> None:
    name = "linux-image-6.1.0-50-cloud-amd64"
    both = scan(index(stanza(name, "6.1.176-1", BIG)), base="http://m/debian", suite="bookworm") + scan(
        index(stanza(name, "6.1.176-1", BIG)), base="http://m/security", suite="bookworm-security"
    )
    [kernel] = kernels(both, SUFFIXES)
    assert [one[0].url.split("/pool")[0] for one in kernel.sets] == ["http://m/debian", "http://m/security"]
    assert kernel.suites == ("bookworm", "bookworm-security")


def test_order_is_debians_among_builds_of_one_release() -> None:
    versions = ["6.12.94-2", "6.12.94-1", "6.12.94-1~bpo12+1", "6.12.100-1", "7.3~rc7-1~exp1"]
    text = index(*(stanza(f"linux-image-{number}-amd64", version, BIG) for number, version in enumerate(versions)))
    assert [kernel.revision for kernel in kernels(scan(text, base="", suite=""), SUFFIXES)] == [
        "6.12.94-1~bpo12+1",
        "6.12.94-1",
        "6.12.94-2",
        "6.12.100-1",
        "7.3~rc7-1~exp1",
    ]


def test_upstream_versions() -> None:
    assert upstream("6.12.43-1~bpo12+1") == KernelVersion(6, 12, 43)
    assert upstream("7.3~rc7-1~exp1") == KernelVersion(7, 3, 0, 7)
    assert upstream("no version") is None


def test_the_newest_source_package_of_each_series() -> None:
    text = index(
        stanza("linux-source-6.1", "6.1.176-1", BIG),
        stanza("linux-source-6.1", "6.1.192-1", BIG),
        stanza("linux-source-6.12", "6.12.94-1", BIG),
    )
    found = sources(scan(text, base="", suite=""))
    assert [(package.name, package.version) for package in found] == [
        ("linux-source-6.1", "6.1.192-1"),
        ("linux-source-6.12", "6.12.94-1"),
    ]


def test_a_stanza_without_checksum_is_skipped() -> None:
    whole = stanza("linux-image-6.1.0-50-amd64", "6.1.176-1", BIG)
    assert scan(whole.replace("SHA256", "MD5sum").encode(), base="", suite="") == []
