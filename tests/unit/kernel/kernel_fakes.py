"""Small stand-ins for what the kernel code reads: images, packages, a signed archive, and a web server with moods."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import lzma
import shutil
import struct
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

from tests.servers.http import served, start_of

EM_X86_64 = 62
EM_AARCH64 = 183
RELEASE = "6.1.7-fake-amd64"
CONFIG = "CONFIG_BPF=y\nCONFIG_BPF_SYSCALL=y\n"


def elf(
    *, machine: int = EM_X86_64, pvh: bool = True, align: int = 0x200000, content: bytes = b"", release: str = RELEASE
) -> bytes:
    """A vmlinux with one loadable segment and, with `pvh`, the note that QEMU boots it by: it enters at the content."""
    banner = f"Linux version {release} (fake@host) (gcc) #1 SMP\n\0".encode()
    note = struct.pack("<III", 4, 4, 18) + b"Xen\0" + struct.pack("<I", len(banner)) if pvh else b""
    body = banner + content
    start = 64 + 56 * 2
    header = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0x1000000, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, start, 0, 0, len(body), len(body), align)
    notes = struct.pack("<IIQQQQQQ", 4, 4, start + len(body), 0, 0, len(note), len(note), 4)
    return header + load + notes + body + note


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def bzimage(payload: bytes, *, release: str = RELEASE, build: str = "#1 SMP", protocol: int = 0x020F) -> bytes:
    """A bzImage with four setup sectors around a compressed payload."""
    image = bytearray(5 * 512)
    image[0x1F1] = 4
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, protocol)
    struct.pack_into("<H", image, 0x20E, 0x300 - 0x200)
    struct.pack_into("<II", image, 0x248, 32, len(payload))
    banner = f"{release} (fake@host) {build}\0".encode()
    image[0x300 : 0x300 + len(banner)] = banner
    return bytes(image) + bytes(32) + payload + bytes(64)


def kernel_image(release: str = RELEASE, build: str = "#1 SMP") -> bytes:
    """A whole bzImage that the harness takes for good."""
    return bzimage(gzipped(elf(release=release)), release=release, build=build)


def arm64_image(release: str = RELEASE, build: str = "#1 SMP", *, size: int = 0) -> bytes:
    """An Image of arm64: the header, a PE header with one section of `size` bytes (default: to the end), a banner."""
    banner = f"\0Linux version {release} (fake@host) {build}\0".encode()
    section = 64 + 24 + 40
    image = bytearray(64) + b"PE\0\0" + bytes(20) + bytes(40) + banner
    image[0:2] = b"MZ"
    image[56:60] = b"ARM\x64"
    struct.pack_into("<I", image, 60, 64)
    struct.pack_into("<H", image, 64 + 6, 1)
    struct.pack_into("<II", image, 64 + 24 + 16, size or len(image) - section, section)
    return bytes(image)


def riscv64_image(release: str = RELEASE, build: str = "#1 SMP", *, size: int = 0) -> bytes:
    """An Image of riscv64, whose header differs from that of arm64 in its magic."""
    return arm64_image(release, build, size=size).replace(b"ARM\x64", b"RSC\x05", 1)


def s390x_image(release: str = RELEASE, build: str = "#1 SMP", *, named: bool = True) -> bytes:
    """A bzImage of s390x: its magic, its version line unless not `named`, and the trailer at its end."""
    image = bytearray(0x11000)
    image[0x10008:0x10010] = b"S390EP\0\1"
    version = f"{release} (fake@host) {build}\0".encode()
    image[0x10800 : 0x10800 + len(version)] = version
    if named:
        struct.pack_into(">Q", image, 0x10428, 0x10800)
    image[-8:] = b"\0\0\0\x20zIPL"
    return bytes(image)


def armhf_image(release: str = RELEASE, build: str = "#1 SMP", *, table: bool = True) -> bytes:
    """A zImage of armhf: its header, code, the table that says where the compressed kernel ends unless not `table`."""
    plain = f"\0Linux version {release} (fake@host) {build}\0".encode()
    # Code may look like the beginning of something compressed.
    image = bytearray(0x100) + b"\x1f\x8b\x08 is no kernel" + gzip.compress(plain)
    image[36:40] = b"\x18\x28\x6f\x01"
    if table:
        struct.pack_into("<I", image, 56, 0x80)
        struct.pack_into("<I4sI", image, 0x80, 3, b"KLSZ", len(image))
    return bytes(image) + struct.pack("<I", len(plain)) + bytes(64)


def module(depends: str = "", name: str = "m", *, order: str = "<", softdep: str = "", bits: int = 64) -> bytes:
    """A kernel module that holds nothing but what modinfo reads; `order` as in struct, `bits` of its words."""
    info = f"license=GPL\0depends={depends}\0name={name}\0".encode()
    if softdep:
        info += f"softdep={softdep}\0".encode()
    names = b"\0.modinfo\0.shstrtab\0"
    word, head, entry = ("Q", 64, 64) if bits == 64 else ("I", 52, 40)
    sections = [(0, 0, 0), (1, head, len(info)), (10, head + len(info), len(names))]
    table = b"".join(
        struct.pack(f"{order}II{word * 4}II{word * 2}", name_at, 1, 0, 0, offset, size, 0, 0, 1, 0)
        for name_at, offset, size in sections
    )
    header = (
        b"\x7fELF"
        + bytes([bits // 32, 1 if order == "<" else 2, 1])
        + bytes(9)
        + struct.pack(
            f"{order}HHI{word * 3}IHHHHHH",
            *(1, EM_X86_64, 1, 0, 0, head + len(info) + len(names), 0, head, 0, 0, entry, 3, 2),
        )
    )
    return header + info + names + table


def deb(files: Mapping[str, bytes | str], *, compression: str = "xz") -> bytes:
    """A Debian package with these files, text for the target of a link; with "" for `compression`, as they are."""
    members = {"debian-binary": b"2.0\n", "control.tar.gz": _tar({"./control": b"Package: x\n"}, "gz")}
    members["data.tar" + (f".{compression}" if compression else "")] = _tar(
        {f"./{name}": data for name, data in files.items()}, compression
    )
    archive = b"!<arch>\n"
    for name, data in members.items():
        archive += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    return archive


def _tar(files: Mapping[str, bytes | str], compression: str) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as members:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(data, str):
                member.type, member.linkname = tarfile.SYMTYPE, data
                members.addfile(member)
                continue
            member.size = len(data)
            members.addfile(member, io.BytesIO(data))
    data = plain.getvalue()
    return {"xz": lzma.compress, "gz": gzipped}[compression](data) if compression else data


def tarball(files: Mapping[str, bytes]) -> bytes:
    """A .tar.xz with these files."""
    return _tar(files, "xz")


@dataclass
class Server:
    """A web server on 127.0.0.1 over a folder.

    Attributes:
        root: The folder.
        url: Its address.
        cut: For a path, the bytes after which its answers break off.
        stall: For a path, the bytes after which its answers wait until the entry is removed.
        requests: The paths asked for, each with the Range header or "".
        ranges: Whether it honours Range.
    """

    root: Path
    url: str = ""
    cut: dict[str, int] = field(default_factory=dict)
    stall: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    ranges: bool = True


@contextmanager
def serve(root: Path) -> Iterator[Server]:
    """Serve a folder until the body ends."""
    state = Server(root)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            state.requests.append((self.path, wanted))
            # A proxy is asked with whole addresses.
            path = state.root / urlsplit(self.path).path.strip("/")
            if path.is_dir():
                path /= "index.html"
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            start = start_of(wanted) if state.ranges else 0
            if start and start >= len(data):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            if self.path in state.stall:
                self.wfile.write(data[start : state.stall[self.path]])
                start = state.stall[self.path]
                while self.path in state.stall:
                    time.sleep(0.01)
            with contextlib.suppress(ConnectionError):
                self.wfile.write(data[start : state.cut.get(self.path, len(data))])

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            return

    with served(Handler) as state.url:
        yield state


@dataclass
class Signer:
    """A throwaway key, to sign an archive with.

    Attributes:
        home: A folder for gpg, with a path short enough for its socket.
        who: Whose key it is.
        when: gpg's time ("20200101T000000"), "" for now.
        until: The day on which the key expires.
    """

    home: Path
    who: str = "archive"
    when: str = ""
    until: str = "never"

    def __post_init__(self) -> None:
        self.keyring = self.home / f"{self.who}.gpg"
        if not self.keyring.exists():
            self.home.mkdir(mode=0o700, exist_ok=True)
            self._gpg("--quick-generate-key", f"{self.who} <{self.who}@example.org>", "ed25519", "sign", self.until)
            self._gpg("--output", str(self.keyring), "--export", self.who)

    def sign(self, text: str, *, lasts: str = "") -> bytes:
        """Return the text, signed inside; `lasts`: after how many days the signature expires."""
        return self._gpg(*(["--default-sig-expire", lasts] if lasts else []), "--clearsign", data=text.encode())

    def sign_detached(self, data: bytes) -> bytes:
        """Return a signature, armoured."""
        return self._gpg("--armor", "--detach-sign", data=data)

    def armoured(self) -> bytes:
        """Return the public key, armoured."""
        return self._gpg("--armor", "--export", self.who)

    def fingerprint(self) -> str:
        """Return the key's fingerprint."""
        listed = self._gpg("--with-colons", "--list-keys", self.who).decode()
        return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))

    def stop(self) -> None:
        """End the agent that gpg started for this key."""
        subprocess.run(["gpgconf", "--homedir", str(self.home), "--kill", "gpg-agent"], check=True)

    def _gpg(self, *words: str, data: bytes = b"") -> bytes:
        argv = ["gpg", "--homedir", str(self.home), "--batch", "--yes", "--quiet", "--pinentry-mode", "loopback"]
        argv += ["--passphrase", "", *(["--faked-system-time", self.when] if self.when else [])]
        return subprocess.run([*argv, *words], input=data, capture_output=True, check=True).stdout


@dataclass
class Archive:
    """A Debian archive under a folder that a :class:`Server` serves.

    Attributes:
        root: The folder.
        signer: Whose key signs it.
        suites: Packages by suite: name, version, content.
        depends: What a package depends on, by its name.
        foreign: Packages of arm64 whose names do not say so.
    """

    root: Path
    signer: Signer
    suites: dict[str, list[tuple[str, str, bytes]]] = field(default_factory=dict)
    depends: dict[str, str] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)

    def add(self, suite: str, name: str, version: str, files: Mapping[str, bytes | str], *, padding: int = 0) -> Path:
        """Add a package; `padding` makes it as large as one that holds a kernel."""
        content = deb({**files, "usr/share/doc/padding": _noise(padding)} if padding else files)
        self.suites.setdefault(suite, []).append((name, version, content))
        path = self.root / "pool" / f"{name}_{version}_{self._architecture(name)}.deb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def _architecture(self, package: str) -> str:
        """Return a package's architecture, by its name."""
        return "arm64" if "arm64" in package or package in self.foreign else "amd64"

    def publish(self, *, valid_until: str = "") -> None:
        """Write and sign the indexes."""
        for suite, packages in self.suites.items():
            folder = self.root / "dists" / suite
            shutil.rmtree(folder, ignore_errors=True)
            lines = []
            for architecture in sorted({"amd64", *(self._architecture(name) for name, _, _ in packages)}):
                index = "\n".join(
                    f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: nobody\n"
                    f"Description: d\nFilename: pool/{name}_{version}_{architecture}.deb\nSize: {len(content)}\n"
                    f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
                    + (f"Depends: {self.depends[name]}\n" if name in self.depends else "")
                    for name, version, content in packages
                    if self._architecture(name) == architecture
                ).encode()
                below = f"main/binary-{architecture}"
                (folder / below).mkdir(parents=True)
                for name, data in (("Packages", index), ("Packages.xz", lzma.compress(index))):
                    (folder / below / name).write_bytes(data)
                    lines.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {below}/{name}")
            release = (
                f"Origin: Fake\nSuite: {suite}\nCodename: {suite}\nDate: Thu, 01 Jan 2026 00:00:00 UTC\n"
                + (f"Valid-Until: {valid_until}\n" if valid_until else "")
                + "Architectures: amd64 arm64\nComponents: main\nSHA256:\n"
                + "\n".join(lines)
                + "\n"
            )
            (folder / "InRelease").write_bytes(self.signer.sign(release))


def _noise(size: int) -> bytes:
    # Does not compress, and is the same every time.
    return b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(size // 32 + 1))[:size]
