"""Builds the guest image from this machine's Python, or from a folder with that of another architecture.

The image is kept in the cache. Its key is made of its sources: path, size and time of every file. It holds the
interpreter, its shared libraries, the standard library as bytecode with its extension modules, the agent and the
loader; and a static busybox, where this machine has one or the guest's architecture is another. The build reads the
files of harness.guest and never imports them, and runs nothing of another architecture: bytecode depends on the version
of Python alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import stat
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
from harness import needs
from harness.errors import BuildError
from harness.image import busybox, cpio, elf, script
from harness.util import architecture, cache
from harness.util.architecture import Architecture
from harness.util.proc import run

log = logging.getLogger("harness.image")

FORMAT = 2
"""Part of every key: raise it when the same sources give another image."""

LEFT_OUT = frozenset(
    # Windows, packages that need a network or a display, what was removed from Python, its own tests.
    "ensurepip idlelib lib2to3 nis ossaudiodev test tests tkinter _tkinter turtle turtledemo xxlimited xxlimited_35 "
    "xxsubtype _ctypes_test".split()
)
"""Modules of the standard library that no guest has."""

_LEFT_OUT_FOLDERS = {*LEFT_OUT, "__pycache__", "site-packages", "dist-packages"}
_OF_PYTHONS_TESTS = ("_test", "_xxtest")

# The options: isolated, without site, without the environment. The path is the one the interpreter has on this
# machine, because that is where it looks for its library.
_INIT = """#!{interpreter} -ISE
from harness.guest import agent
agent.main({shared!r}, {syscalls!r}, {ioctl!r})
"""

_ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}

# Loaded by name at run time, so they appear in no program's list of libraries.
_EXTRA_LIBRARIES = ("libgcc_s.so.1",)

# The same, with the libraries that they need; omitted when this machine does not have them.
_OPTIONAL_LIBRARIES = ("libbpf.so.1",)


_BUSYBOX = "busybox-static"


@dataclass(frozen=True)
class Image:
    """A guest image in the cache.

    Attributes:
        path: The initramfs.
        digest: sha256 of its content.
        userland: The folder of foreign programs that it was made of; None for this machine's own.
    """

    path: Path
    digest: str
    userland: Path | None = None


@dataclass(frozen=True)
class _Python:
    """The Python that a guest gets.

    Attributes:
        architecture: Whose it is.
        root: The folder that stands for the guest's root; None for this machine's.
        interpreter: Its program on this machine.
        shown: Where that is in the guest.
        stdlib: Its standard library on this machine.
        library: Where that is in the guest, without the leading slash.
        extensions: Its extension modules on this machine.
    """

    architecture: Architecture
    root: Path | None
    interpreter: Path
    shown: str
    stdlib: Path
    library: str
    extensions: Path


def _own_python() -> _Python:
    interpreter = _base_interpreter()
    stdlib = Path(sysconfig.get_path("stdlib"))
    extensions = Path(sysconfig.get_config_var("DESTSHARED") or stdlib / "lib-dynload")
    return _Python(architecture.own(), None, interpreter, str(interpreter), stdlib, str(stdlib).lstrip("/"), extensions)


def _foreign_python(root: Path, wanted: Architecture) -> _Python:
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    stdlib = root / "usr" / "lib" / name
    program = root / "usr" / "bin" / name
    return _Python(wanted, root, program, f"/usr/bin/{name}", stdlib, f"usr/lib/{name}", stdlib / "lib-dynload")


def foreign_image(root: Path, wanted: Architecture) -> Image:
    """Return the guest image for another architecture, built if its sources changed since the last time.

    Args:
        root: A folder with its programs, laid out as below the root, for this Python's version.
        wanted: The architecture.

    Raises:
        BuildError: The folder lacks Python or a library.
        CacheError: The cache folder cannot be written.
    """
    python = _foreign_python(root, wanted)
    if not python.interpreter.is_file():
        raise BuildError(
            f"{root} has no {python.shown}",
            expected=f"the programs of {wanted.name}",
            hint=f"remove {root}; the next run makes it anew",
        )
    return _image(python, [FORMAT, root, wanted.name, Path(__file__)])


def guest_image() -> Image:
    """Return the guest image for this interpreter, built if its sources changed since the last time.

    Raises:
        BuildError: This machine's Python cannot be packed.
        CacheError: The cache folder cannot be written.
    """
    applets = needs.find(needs.need(_BUSYBOX))
    parts = [FORMAT, sys.executable, _base_interpreter(), Path(__file__), *optional_libraries().values(), applets]
    return _image(_own_python(), parts)


def _image(python: _Python, parts: Sequence[object]) -> Image:
    # The names too: of a module that is new no record knows that it is missing.
    named = "\0".join(map(str, [*parts, *_guest_sources()]))
    key = cache.cache_root() / "images" / hashlib.sha256(named.encode()).hexdigest()[:16]
    record = key.with_suffix(".json")
    return cache.artefact(
        key,
        whole=lambda: cache.from_record(record, lambda known: _whole(record, known, python.root)),
        make=lambda: _build(record, python),
    )


def _guest_sources() -> list[Path]:
    """Return the files of this package that the guest gets."""
    package = Path(harness.__file__)
    return [package, *sorted((package.parent / "guest").rglob("*.py"))]


def optional_libraries() -> dict[str, Path]:
    """Return the optional libraries that this machine has, by the name that loads them.

    Raises:
        BuildError: An environment variable names a library that does not exist.
    """
    found = {}
    for name in _OPTIONAL_LIBRARIES:
        need = needs.need(name)
        path = needs.find(need)
        if (named := os.environ.get(need.variable)) and (path is None or not path.is_file()):
            raise BuildError(f"{need.variable} names {named}, which does not exist", expected=f"the path of a {name}")
        if path is not None:
            found[name] = path
    return found


def _whole(record: Path, known: dict[str, Any], root: Path | None) -> Image | None:
    """Return the image that the record names, if the file exists and no source has changed."""
    image = Image(record.parent / known["image"], known["digest"], root)
    if image.path.stat().st_size != known["size"] or any(
        _signature(Path(path)) != signature for path, signature in known["sources"].items()
    ):
        return None
    cache.mark_used(image.path)
    return image


def _signature(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _build(record: Path, python: _Python) -> Image:
    log.info("building the guest image from %s", python.interpreter)
    sources: set[Path] = set(Path(__file__).parent.glob("*.py"))
    data = b"".join(cpio.archive(cpio.with_parents(list(_entries(python, sources)))))
    digest = hashlib.sha256(data).hexdigest()
    path = record.with_name(f"{digest[:16]}.cpio")
    with cache.new_file(path) as temporary:
        temporary.write_bytes(data)
    known = {
        "image": path.name,
        "digest": digest,
        "size": len(data),
        "sources": {str(source): _signature(source) for source in sorted(sources)},
    }
    cache.write_record(record, known)
    cache.drop_unused(record.parent.glob("*.cpio"))
    return Image(path, digest, python.root)


def _entries(python: _Python, sources: set[Path]) -> Iterable[cpio.CpioEntry]:
    stdlib, library = python.stdlib, python.library
    yield cpio.link("bin", "usr/bin")
    yield cpio.link("sbin", "usr/bin")
    yield cpio.link("usr/sbin", "bin")
    for empty in ("dev", "proc", "sys", "run", "root", "mnt", "var"):
        yield cpio.folder(empty)
    yield cpio.folder("tmp", 0o1777)
    # The kernel opens it for the first process's standard streams, before that process mounts devtmpfs.
    yield cpio.CpioEntry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    yield cpio.CpioEntry("dev/null", stat.S_IFCHR | 0o666, device=(1, 3))
    # Python reads it before devtmpfs is mounted, when getrandom(2) has no random bytes yet (seen on 4.12).
    yield cpio.CpioEntry("dev/urandom", stat.S_IFCHR | 0o666, device=(1, 9))
    machine = python.architecture
    ioctl = {"none": machine.ioctl_none, "write": machine.ioctl_write}
    init = _INIT.format(interpreter=python.shown, shared=machine.shared, syscalls=dict(machine.syscalls), ioctl=ioctl)
    yield cpio.file("init", init.encode(), 0o755)
    for account, text in _ACCOUNTS.items():
        yield cpio.file(account, text.encode())

    _check_interpreter(_base_interpreter())
    extensions = [path for path in sorted(python.extensions.glob("*.so")) if _is_wanted(_extension_name(path))]
    if python.root is not None:
        extensions = [path for path in extensions if _is_complete(path, python)]
    yield cpio.file(python.shown.lstrip("/"), _object(python.interpreter, sources), 0o755)
    if python.shown != script.PYTHON:
        yield cpio.link(script.PYTHON.lstrip("/"), python.shown)
    for path in extensions:
        place = path if python.root is None else path.relative_to(python.root)
        yield cpio.file(str(place).lstrip("/"), _object(path, sources), 0o755)
    yield from _libraries(python, [python.interpreter, *extensions], sources)
    yield from _applets(python, sources)
    for source in _stdlib_files(stdlib):
        relative = source.relative_to(stdlib)
        code = _bytecode(source, f"/{library}/{relative}", sources)
        yield cpio.file(f"{library}/{relative.with_suffix('.pyc')}", code)

    package = Path(harness.__file__).parent
    for source in _guest_sources():
        shown_as = f"{library}/harness/{source.relative_to(package)}"
        yield cpio.file(f"{shown_as}c", _bytecode(source, f"/{shown_as}", sources))


def _applets(python: _Python, sources: set[Path]) -> Iterable[cpio.CpioEntry]:
    """Yield a static busybox and its applets: scripts and system(3) want a shell. This machine may have none."""
    if python.root is None:
        found = needs.find(needs.need(_BUSYBOX))
        if found is None:
            return
        program = found.resolve()
        applets = busybox.listed(program)
    else:
        program = python.root / busybox.PLACE
        applets = busybox.read(program)
    yield cpio.file("usr/bin/busybox", _object(program, sources), 0o755)
    for applet in applets:
        if applet != "busybox":
            yield cpio.link(f"usr/bin/{applet}", "busybox")


def _libraries(python: _Python, objects: list[Path], sources: set[Path]) -> Iterable[cpio.CpioEntry]:
    if python.root is None:
        optional = optional_libraries()
        found = elf.shared_libraries([*objects, *optional.values()], error=BuildError)
    else:
        folder = python.root / "usr" / "lib" / python.architecture.triplet
        optional = {name: folder / name for name in _OPTIONAL_LIBRARIES}
        found = elf.closure([*objects, *optional.values()], python.root, python.architecture.triplet, error=BuildError)
    found.update(optional)
    libc = next((path.parent for name, path in found.items() if name.startswith("libc.so")), None)
    for name in _EXTRA_LIBRARIES:
        if libc is not None and (libc / name).exists():
            found[name] = libc / name
    for name, path in found.items():
        if name.startswith("/"):
            # The dynamic loader, at the path that programs name.
            place = name.lstrip("/") if python.root is None or not name.startswith("/lib/") else f"usr{name}"
            yield cpio.file(place, _object(path, sources), 0o755)
        else:
            yield cpio.file(f"usr/lib/{name}", _object(path, sources), 0o755)
    if python.root is not None or not any(name.startswith("/lib/") for name in found):
        yield cpio.link("lib", "usr/lib")


def _object(path: Path, sources: set[Path]) -> bytes:
    sources.add(path)
    return elf.strip(path.read_bytes())


def _bytecode(source: Path, shown_as: str, sources: set[Path]) -> bytes:
    """Return the content of a .pyc file, which the guest uses without its source."""
    import marshal

    sources.add(source)
    code = compile(source.read_bytes(), shown_as, "exec", dont_inherit=True, optimize=0)
    # Flags 0b01: validated by hash, never compared with a source file.
    return (
        importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(b"") + marshal.dumps(code)
    )


def _is_complete(extension: Path, python: _Python) -> bool:
    """Return whether the folder has the libraries of an extension module; it lacks those of curses and dbm."""
    assert python.root is not None, "this machine's Python has the libraries of all its modules"
    try:
        elf.closure([extension], python.root, python.architecture.triplet, error=BuildError)
    except BuildError as error:
        log.info("left out of the guest image: %s", error.what)
        return False
    return True


def _is_wanted(module: str) -> bool:
    return module not in LEFT_OUT and not module.startswith(_OF_PYTHONS_TESTS)


def _stdlib_files(stdlib: Path) -> Iterable[Path]:
    for folder, names, files in os.walk(stdlib):
        names[:] = sorted(name for name in names if name not in _LEFT_OUT_FOLDERS and not name.startswith("config-"))
        for name in sorted(files):
            if name.endswith(".py") and _is_wanted(name.removesuffix(".py")):
                yield Path(folder) / name


def _check_interpreter(interpreter: Path) -> None:
    """Refuse an interpreter that cannot run the guest's agent."""
    done = run([interpreter, "-ISE", "-c", "import ctypes, encodings.ascii, json, subprocess"], timeout=60)
    if done.status != 0:
        raise BuildError(
            f"{interpreter} cannot import the modules that the guest's agent needs",
            expected="a complete Python standard library, ctypes included",
            hint="install the full package of this Python (Debian: python3-full)",
            detail=done.tail(),
        )


def _extension_name(path: Path) -> str:
    # NAME.so or NAME.cpython-311-ARCHITECTURE-linux-gnu.so
    return path.name.partition(".")[0]


def _base_interpreter() -> Path:
    """Return the interpreter's binary, outside any virtual environment."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()
