"""Everything that parses bytes from a guest, an archive or a user: only the declared error comes out.

Valid input is damaged at random. What was found that way is kept as an example. A longer search:
`HARNESS_FUZZ=20000 pytest tests/unit/test_fuzz.py`.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import struct
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from harness.checks import faults, known_faults, log_records
from harness.errors import HarnessError, KernelFileError, MirrorError, RecordError, SelectorError, UsageError
from harness.guest import wire
from harness.image import layers
from harness.image.tree import FileTree
from harness.kernel import lockfile, selector
from harness.kernel.files import bzimage, modules, packages, raw_image, signature
from harness.kernel.providers import apt_sources, debian_archive, debian_index, debs, rpm_md, snapshot, ubuntu
from harness.kernel.version import KernelVersion
from harness.programs import settings as program_settings
from harness.remote import transfer
from harness.results import file as records
from harness.util import cache
from harness.vm import console
from tests.unit.image import test_rootfs as rootfs_samples
from tests.unit.kernel import kernel_fakes
from tests.unit.kernel.files import test_packages as samples_of_packages
from tests.unit.results import samples

DATA = Path(__file__).parent / "data"

WANTED = int(os.environ.get("HARNESS_FUZZ", "0"))
fuzz = settings(
    max_examples=WANTED or 60,
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    # The same examples in every run, unless more are asked for.
    derandomize=not WANTED,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@st.composite
def damaged(draw: st.DrawFn, *valid: bytes) -> bytes:
    """Return one of the valid inputs with bytes changed, inserted, removed, repeated or cut off."""
    data = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        size = draw(st.sampled_from((1, 1, 1, 2, 4, 8, 64, 1000)))
        how = draw(st.sampled_from(("set", "set", "insert", "remove", "repeat", "cut")))
        if how == "set":
            same = [byte * size for byte in (b"\0", b"\xff", b"\x7f")]
            data[at : at + size] = draw(st.sampled_from(same) | st.binary(min_size=size, max_size=size))
        elif how == "insert":
            data[at:at] = draw(st.binary(min_size=size, max_size=size))
        elif how == "remove":
            del data[at : at + size]
        elif how == "repeat":
            data[at:at] = data[at : at + size] * draw(st.integers(1, 3))
        else:
            del data[at:]
    return bytes(data)


def text_of(data: bytes) -> str:
    return data.decode(errors="replace")


@contextmanager
def only(*kinds: type[Exception]) -> Iterator[None]:
    """Let only these errors come out."""
    with suppress(*kinds):
        yield


DEEP = b"[" * 100_000

VALUES = [None, True, -(1 << 70), 0.5, "text", b"bytes", [1, [2, {"key": [3]}]], {"a": {"b": ()}}]
PAYLOAD = wire.encode(VALUES)
FRAMES = b"".join(wire.frame(kind, 1, 7, VALUES) for kind in (wire.REQUEST, wire.REPLY, wire.EVENT))


@fuzz
@given(damaged(PAYLOAD))
@example(b"")
def test_payloads(data: bytes) -> None:
    with only(wire.WireError):
        wire.decode(data)


@fuzz
@given(damaged(FRAMES), st.integers(1, 64))
@example(FRAMES[:-1], 1)
def test_frames(data: bytes, piece: int) -> None:
    splitter = wire.Splitter()
    with only(wire.WireError):
        for at in range(0, len(data), piece):
            for _, _, _, payload in splitter.feed(data[at : at + piece]):
                wire.decode(payload)


LOGS = [path.read_bytes() for path in sorted((DATA / "kernellog").glob("*.kmsg"))[::5]]


@fuzz
@given(damaged(*LOGS))
@example(b"6,1,2,-;\\xff\\x0\n")
@example(b"9" * 5000 + b",1,2,-;x")
def test_kernel_logs(data: bytes) -> None:
    with only(ValueError):
        found = log_records.parse_records(data.split(b"\n"))
        for fault in faults.find_faults(found):
            assert fault.kind in known_faults.KINDS


CONSOLES = [path.read_bytes() for path in sorted((DATA / "console").glob("*.log"))]


@fuzz
@given(damaged(*CONSOLES))
@example(b"[9999999999999999999999.999999] \x1b[")
def test_consoles(data: bytes) -> None:
    lines = [console.clean(line) for line in text_of(data).split("\n")]
    assert not any("\x1b" in line for line in lines)
    console.cause_of_death(lines)
    console.agent_exited(lines)
    faults.find_faults(log_records.parse_console(lines))


IMAGE = kernel_fakes.kernel_image()


@fuzz
@given(damaged(IMAGE))
@example(IMAGE[:0x210])
@example(b"")
def test_boot_images(data: bytes) -> None:
    with only(KernelFileError):
        if bzimage.image_kind(data, "image") is bzimage.ImageKind.BZIMAGE:
            bzimage.setup_header(data, "image")
            kernel, _ = bzimage.extract_vmlinux(data, "image")
            bzimage.check_elf(kernel, "image")


ZIMAGE = kernel_fakes.armhf_image()


@fuzz
@given(damaged(ZIMAGE))
@example(ZIMAGE[:0x84])
@example(ZIMAGE[:0x88] + b"\0\0\0\0" + ZIMAGE[0x8C:])
@example(ZIMAGE[:0x88] + b"\xff\xff\xff\xff" + ZIMAGE[0x8C:])
def test_images_that_qemu_loads(data: bytes) -> None:
    with only(KernelFileError):
        raw_image.check(data, "image")
        bzimage.embedded_config(bzimage.plain_kernel(data, "image"))


@fuzz
@given(damaged(kernel_fakes.elf()))
@example(b"\x7fELF")
@example(kernel_fakes.elf()[:38] + b"\0\0\x80" + kernel_fakes.elf()[41:])
def test_elf_kernels(data: bytes) -> None:
    with only(KernelFileError):
        bzimage.check_elf(data, "vmlinux")
        bzimage.pvh_problem(data)
        bzimage.load_alignment(data)
        bzimage.elf_banner(data)
        bzimage.embedded_config(data)


RELEASE = "6.1.0-1-cloud-amd64"
PACKAGE = kernel_fakes.deb({f"boot/vmlinuz-{RELEASE}": IMAGE, f"lib/modules/{RELEASE}/kernel/m.ko": b"module"})


@fuzz
@given(damaged(PACKAGE))
@example(b"!<arch>\n")
@example(PACKAGE.replace(b"0     0     100644", b"\0     0     100644", 1))
@example(PACKAGE.replace(b"0           0     0 ", b"\0           0     0 ", 1))
def test_debian_packages(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        package, target = Path(folder) / "x.deb", Path(folder) / "target"
        package.write_bytes(data)
        target.mkdir()
        with only(KernelFileError):
            debs.unpack(package, RELEASE, target)
        assert sorted(path.name for path in Path(folder).iterdir()) == ["target", "x.deb"]


def rpm_package(files: dict[str, bytes]) -> bytes:
    """Return a small RPM package, made without rpm: lead, signature header, header, archive."""
    texts = {1000: b"kernel-core", 1001: b"6.6.15", 1002: b"1.el9", 1022: b"x86_64"}
    store, index = b"", b""
    for tag, text in texts.items():
        index += struct.pack(">IIII", tag, 6, len(store), 1)
        store += text + b"\0"

    def header(index: bytes, store: bytes) -> bytes:
        return b"\x8e\xad\xe8\x01" + bytes(4) + struct.pack(">II", len(index) // 16, len(store)) + index + store

    archive = b""
    for name, data in [*files.items(), ("TRAILER!!!", b"")]:
        fields = [1, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        head = b"070701" + b"".join(b"%08x" % (value % (1 << 32)) for value in fields) + name.encode() + b"\0"
        archive += head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
    return b"\xed\xab\xee\xdb" + bytes(92) + header(b"", b"") + header(index, store) + gzip.compress(archive)


def container() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        layout = samples_of_packages.oci(Path(folder) / "image", samples_of_packages.LAYERS)
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as members:
            members.add(layout, arcname=".")
        return archive.getvalue()


ODD = {f"boot/vmlinuz-{RELEASE}": b"kernel", f"lib/modules/{RELEASE}/../../../victim": b"x", "/boot/vmlinuz": b"x"}
ARCHIVES = (
    rpm_package({f"./lib/modules/{RELEASE}/vmlinuz": b"kernel", f"lib/modules/{RELEASE}/m.ko": b"module"}),
    rpm_package(ODD),
    lzma.decompress(kernel_fakes.tarball(ODD)),
    gzip.compress(lzma.decompress(kernel_fakes.tarball({f"boot/config-{RELEASE}": b"x"}))),
    container(),
    samples_of_packages.pe({b".osrel": b"ID=x", b".linux": b"kernel"}),
    samples_of_packages.zboot(gzip.compress(b"kernel"), "gzip"),
    kernel_fakes.deb(ODD),
)


@fuzz
@given(damaged(*ARCHIVES))
@example(ARCHIVES[0][:120])
@example(ARCHIVES[0].replace(struct.pack(">I", 1000), struct.pack(">I", 999), 1))
@example(b"MZ\0\0zimg")
def test_archives_with_kernels(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, target = Path(folder) / "image", Path(folder) / "target"
        path.write_bytes(data)
        target.mkdir()
        with only(KernelFileError):
            packages.unpack(path, target)
        assert sorted(one.name for one in Path(folder).iterdir()) == ["image", "target"]
        assert {one.name for one in target.iterdir()} <= {"boot", "lib"}


def test_archives_that_are_not_damaged_are_unpacked(tmp_path: Path) -> None:
    for number, data in enumerate(ARCHIVES):
        (tmp_path / "image").write_bytes(data)
        target = tmp_path / str(number)
        target.mkdir()
        packages.unpack(tmp_path / "image", target)
        assert list(target.iterdir()) != [], number


AMD64 = {"os": "linux", "architecture": "amd64"}
MANIFEST = json.dumps({"manifests": [{"digest": "sha256:0", "platform": AMD64}]}).encode()


@fuzz
@given(damaged(MANIFEST, b'{"layers": [{"digest": "sha256:0"}]}'))
@example(DEEP)
@example(b"[]")
@example(b'{"manifests": 5}')
@example(b'{"manifests": [5]}')
@example(b'{"manifests": [{}]}')
@example(b'{"manifests": [{"platform": 5, "digest": 5}]}')
@example(b'{"layers": 5}')
@example(b'{"layers": [{"digest": 5}]}')
def test_indexes_of_containers(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        layout = Path(folder)
        (layout / "oci-layout").write_text("{}")
        (layout / "index.json").write_bytes(data)
        with only(KernelFileError):
            packages.unpack(layout, layout / "target")


REPOMD = b"""<repomd xmlns="http://linux.duke.edu/metadata/repo">
<data type="primary"><checksum type="sha256">00</checksum><location href="repodata/x.xml.gz"/><size>100</size></data>
</repomd>"""
PRIMARY = b"""<metadata xmlns="http://linux.duke.edu/metadata/common">
<package type="rpm"><name>kernel-core</name><arch>x86_64</arch><version epoch="0" ver="6.6.15" rel="1.el9"/>
<checksum type="sha256">00</checksum><size package="10"/><location href="k.rpm"/></package></metadata>"""
DISTRIBUTION = {"name": "x", "image": "kernel-core", "modules": ["kernel-modules"]}


@fuzz
@given(damaged(REPOMD, PRIMARY))
@example(REPOMD.replace(b"href", b"hreff"))
@example(PRIMARY.replace(b'"10"', b'"many"'))
@example(PRIMARY.replace(b"x86_64", b"x86_64</arch><arch>"))
def test_repositories_of_rpm(data: bytes) -> None:
    with only(MirrorError):
        rpm_md.primary_of(data, "http://127.0.0.1")
    with only(MirrorError):
        rpm_md.kernels_in(data, "http://127.0.0.1", DISTRIBUTION)


SELECTIONS = (
    "6.12 6.1.94:generic >=5.10,<6.13",
    "all oldest newest lts host @lock ./linux/",
    "debian:6.1.0-57=6.1.192-3 6.12.*:rt",
    "!= 6.1 == 7.0-rc3 ubuntu:6.5 5.10~rc2",
)


@fuzz
@given(damaged(*(one.encode() for one in SELECTIONS)))
@example("6.\u0661".encode())
@example("\u00b2.1".encode())
def test_selectors(data: bytes) -> None:
    text = text_of(data)
    with only(SelectorError):
        selector.parse(text)
    with only(SelectorError):
        selector.parse_condition(text)
    with only(SelectorError):
        KernelVersion.parse(text)


LOCK_FILE = json.dumps(
    {
        "format": 1,
        "kernels": [
            {"label": "6.1", "version": "6.1.2", "provider": "debian", "key": "k", "flavour": "cloud", "sha256": "0"}
        ],
    }
).encode()


@fuzz
@given(damaged(LOCK_FILE))
@example(DEEP)
@example(b"\xff")
@example(b'{"format": 1, "kernels": 5}')
@example(b"[]")
def test_lock_files(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "k.lock"
        path.write_bytes(data)
        with only(SelectorError):
            lockfile.read(path)


RECORD = samples.record(samples.result("test_a", "6.1"), samples.result("test_b", "6.1", "failed", reason="x"))


def written() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        records.write(path, RECORD)
        return path.read_bytes()


@fuzz
@given(damaged(written()))
@example(DEEP)
@example(b"\xff\xfe")
def test_run_records(data: bytes) -> None:
    with only(RecordError):
        records.parse(data, "record.json")


@fuzz
@given(damaged(b'{"word": [1, {"a": null}], "name": "text"}'))
@example(DEEP)
@example(b"\xff")
@example(b"9" * 5000)
def test_records_of_the_cache(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        path.write_bytes(data)
        cache.from_record(path, lambda known: known["word"][1]["a"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(("kind", "title", "reason", "fault", "kernels", "until", "x")), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@fuzz
@given(st.dictionaries(st.sampled_from(("fault", "other")), JSON, max_size=2))
@example({"fault": [{"kind": "WARN", "title": "(", "reason": "x"}]})
def test_lists_of_known_faults(data: dict[str, Any]) -> None:
    with only(UsageError):
        known_faults.read_known(data, "known.toml")


INDEX = b"""Package: linux-image-6.1.0-1-cloud-amd64
Source: linux-signed-amd64 (6.1.4+1)
Version: 6.1.4-1
Architecture: amd64
Depends: kmod
Filename: pool/main/l/linux/x.deb
Size: 1000
SHA256: 0000000000000000000000000000000000000000000000000000000000000000

"""


@fuzz
@given(damaged(INDEX))
@example(INDEX.replace(b"Size: 1000", b"Size: many"))
@example(INDEX.replace(b"Filename", b"Filenam"))
@example(INDEX.replace(b"image-6", b"image-6\x80"))
def test_package_indexes(data: bytes) -> None:
    debian_index.kernels(debian_index.scan(data, base="http://127.0.0.1", suite="bookworm"), {"cloud-amd64": "cloud"})


RELEASE_FILE = b"""Suite: stable
Codename: bookworm
Valid-Until: Sat, 01 Jan 2050 00:00:00 UTC
SHA256:
 0000000000000000000000000000000000000000000000000000000000000000  1000 main/binary-amd64/Packages.xz
"""


@fuzz
@given(damaged(RELEASE_FILE))
@example(RELEASE_FILE.replace(b"2050", b"99999"))
@example(RELEASE_FILE.replace(b" UTC", b""))
def test_release_files(data: bytes) -> None:
    with only(MirrorError):
        debian_archive.named_index(text_of(data), "main/binary-amd64/Packages", "bookworm")


@fuzz
@given(
    damaged(
        b"deb [signed-by=/k arch=amd64] http://127.0.0.1/debian bookworm main contrib\n# x\n",
        b"Types: deb deb-src\nURIs: http://127.0.0.1/debian\nSuites: bookworm\nComponents: main\nEnabled: yes\n",
    )
)
@example(b"deb [")
def test_sources_of_apt(data: bytes) -> None:
    apt_sources.parse_one_line(text_of(data))
    apt_sources.parse_deb822(text_of(data))


@fuzz
@given(damaged(kernel_fakes.module("a,b")))
def test_kernel_modules(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", ".xz", ".zst", ".gz"):
            path = Path(folder) / f"m.ko{suffix}"
            path.write_bytes(data)
            with only(HarnessError):
                modules.read_module(path)


PARTS = ("a", "b", "A", "..", ".", "", "x\ny", "\x1b[2J", "a" * 300, "\udcff", "nul\0")
NAMES = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("/".join)
ENTRIES = st.lists(
    st.tuples(
        NAMES,
        st.sampled_from(("folder", "file", "link", "fifo", "device")),
        st.sampled_from((0o644, 0o7777, 0)),
        NAMES | st.sampled_from(("/etc/passwd", ".", "a/..")),
    ),
    max_size=6,
)


class Sends:
    """A guest process that sends a tree with these entries."""

    def __init__(self, entries: list[tuple[str, str, int, str]]) -> None:
        self._entries = entries

    def ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        name = call.__name__
        if name == "describe":
            return ["", "folder", 0o755, ""]
        if name == "entries":
            return self._entries
        assert name == "read", name
        return b"" if arguments[1] else b"content"


@fuzz
@given(ENTRIES)
@example([("a", "link", 0o777, "."), ("a/a", "folder", 0o755, ""), ("a/x", "link", 0o777, "../../victim")])
@example([("a" * 300, "file", 0o644, "")])
@example([("nul\0", "folder", 0o755, "")])
@example([("\udcff", "file", 0o4755, "")])
@example([("a", "link", 0o777, "b" * 5000)])
@example([("a", "file", 0o644, ""), ("A", "file", 0o644, ""), ("a", "folder", 0o755, "")])
def test_trees_that_a_guest_sends(entries: list[tuple[str, str, int, str]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "victim").write_text("untouched")
        with only(UsageError):
            transfer.pull(cast("Any", Sends(entries)), "/tree", folder / "pulled")
        assert {path.name for path in folder.iterdir()} <= {"victim", "pulled"}
        assert (folder / "victim").read_text() == "untouched"
        for path in (folder / "pulled").rglob("*"):
            assert path.resolve().is_relative_to(folder / "pulled"), path
            assert path.is_symlink() or not path.stat().st_mode & 0o7000, "no set-uid"
            assert path.is_symlink() or path.is_file() or path.is_dir(), "no devices"


STATUS = (
    b"[GNUPG:] NEWSIG\n[GNUPG:] KEYEXPIRED 5\n[GNUPG:] EXPKEYSIG AB x\n[GNUPG:] VALIDSIG AB 2020 5 0 4 0 22 8 01 AB\n"
)


@fuzz
@given(damaged(STATUS, b'{"result": [{"version": "6.6-1"}]}', b"a" * 64 + b"  linux-image-6.6-generic_1_amd64.deb\n"))
@example(b"[GNUPG:] GOODSIG\n[GNUPG:] VALIDSIG\n[GNUPG:] KEYEXPIRED x\n")
@example(DEEP)
def test_what_servers_and_gpgv_say(data: bytes) -> None:
    signature.signatures(text_of(data))
    ubuntu.parse_checksums(text_of(data))
    with only(MirrorError):
        snapshot.parsed(data, "http://127.0.0.1")
    with only(MirrorError):
        signature.binary_keys(
            b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n" + data + b"\n-----END PGP PUBLIC KEY BLOCK-----", "k"
        )


def test_a_damaged_input_differs_from_the_valid_one() -> None:
    seen = set()

    @settings(max_examples=50, derandomize=True, database=None)
    @given(damaged(b"valid input"))
    def look(data: bytes) -> None:
        seen.add(data)

    look()
    assert len(seen) > 20


def test_an_error_that_is_not_declared_comes_out() -> None:
    with pytest.raises(KeyError), only(ValueError):
        raise KeyError


ROOTS = [
    rootfs_samples.PLAIN,
    gzip.compress(rootfs_samples.PLAIN, mtime=0),
    rootfs_samples.docker(*rootfs_samples.LAYERS),
    rootfs_samples.oci_archive(rootfs_samples.PLAIN),
]


@fuzz
@given(damaged(*ROOTS))
def test_root_file_systems(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, only(UsageError):
        (Path(folder) / "r").write_bytes(data)
        contents = Path(folder) / "contents"
        contents.mkdir()
        tree = FileTree("r", contents)
        layers.read_into(tree, Path(folder) / "r", "amd64")
        tree.finish()
        assert sorted(path.name for path in Path(folder).iterdir()) == ["contents", "r"]


@fuzz
@given(damaged(b"go cwd=a args='-x y' env=A=b timeout=5 memory=512 scope=module: build/*.test 'a b'", b"tap: t*.sh"))
def test_settings_of_programs(data: bytes) -> None:
    with only(UsageError):
        program_settings.parse(text_of(data))
