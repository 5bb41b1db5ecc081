"""Serves this machine's cached kernels as Debian's snapshot archive, Ubuntu's server and rpm-md repositories do.

python -m tests.servers                           # every cached kernel; prints what to set, and serves until Ctrl-C
python -m tests.servers --kernel 6.1 --as 6.6.15  # one kernel, under another version
python -m tests.servers --flavour minimal         # kernels built here, as if Debian had built them
python -m tests.servers --fault '*/InRelease=changed' --fault '*.deb=cut'
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness.kernel import cache as kernel_cache
from harness.kernel.types import Kernel
from tests.servers import kernel_org, mainline, rpm
from tests.servers.http import NAMED_FAULTS, Server, serve
from tests.servers.snapshot import Snapshot
from tests.unit.kernel.kernel_fakes import Signer, deb


def files_of(kernel: Kernel, folders: str, release: str = "") -> dict[str, bytes]:
    """Return a kernel's files as a package has them.

    Args:
        kernel: A kernel in the cache.
        folders: "boot": image and configuration in boot/; "modules": both in lib/modules/RELEASE.
        release: What the names of both in boot/ end with; "" for the kernel's own release.
    """
    assert kernel.bzimage is not None, f"{kernel.label} has no bzImage"
    tree = f"lib/modules/{kernel.release}"
    names = (f"boot/vmlinuz-{release or kernel.release}", f"boot/config-{release or kernel.release}")
    image, config = names if folders == "boot" else (f"{tree}/vmlinuz", f"{tree}/config")
    found = {image: kernel.bzimage.read_bytes()}
    if kernel.config is not None:
        found[config] = kernel.config.read_bytes()
    if kernel.modules is not None:
        for path in sorted(kernel.modules.rglob("*")):
            if path.is_file():
                found[f"{tree}/{path.relative_to(kernel.modules)}"] = path.read_bytes()
    return found


def fill(
    server: Server,
    folder: Path,
    kernels: list[tuple[Kernel, str]],
    signer: Signer,
    *,
    trusted: Signer | None = None,
    tarballs: Sequence[Path] = (),
) -> dict[str, str]:
    """Fill a server with kernels.

    Args:
        server: The server.
        folder: A folder for its files.
        kernels: Each with the version under which it is served.
        signer: Whose key signs everything.
        trusted: Whose key the settings name; None: the signer's.
        tarballs: Source trees, named as kernel.org names them.

    Returns:
        The settings by which the harness asks this server.
    """
    trusted = trusted or signer
    snapshot = Snapshot(signer)
    for place in ("mainline", "rpm", "kernel.org"):
        (folder / place).mkdir()
    for kernel, version in kernels:
        # Debian's own packages keep their release, whatever version they are served under.
        release = kernel.release if kernel.release.endswith("amd64") else f"{version}-cloud-amd64"
        content = deb(files_of(kernel, "boot", release), compression="")
        base, _, candidate = version.partition("-rc")
        revision = f"{base}~rc{candidate}-1~exp1" if candidate else f"{version}-1"
        suite = "experimental" if candidate else "sid"
        snapshot.add(f"linux-image-{release}-unsigned", revision, content, suite=suite)
        generic = f"{version}-{version.replace('.', '')}-generic"
        mainline.add(
            folder / "mainline", f"v{version}", {f"linux-image-unsigned-{generic}_1_amd64.deb": content}, signer=signer
        )
        rpm_release = f"0.rc{candidate}.1.el9" if candidate else "1.el9"
        rpm.build(folder / "rpm", "kernel-core", base, rpm_release, files_of(kernel, "modules"), signer=signer)
    rpm.index(folder / "rpm", signer)
    (folder / "rpm" / "KEY").write_bytes(trusted.armoured())
    kernel_org.publish(folder / "kernel.org", tarballs, signer)
    server.sites |= {"snapshot": snapshot}
    server.sites |= {name: rpm.Folder(folder / name) for name in ("mainline", "rpm", "kernel.org")}
    record = folder / "distributions.toml"
    record.write_text(
        f'[[distribution]]\nname = "alma9"\ntitle = "repackaged"\nkind = "rpm"\nmirror = "{server.url}/rpm"\n'
        f'repositories = [""]\nkey = "KEY"\nfingerprints = ["{trusted.fingerprint()}"]\n'
        'image = "kernel-core"\nmodules = ["kernel-modules-core", "kernel-modules"]\n'
    )
    return {
        "HARNESS_DEBIAN_SNAPSHOT": f"{server.url}/snapshot",
        "HARNESS_UBUNTU_MAINLINE": f"{server.url}/mainline",
        "HARNESS_UBUNTU_MAINLINE_KEYRING": str(trusted.keyring),
        "HARNESS_KERNEL_ORG": f"{server.url}/kernel.org",
        "HARNESS_KERNEL_ORG_KEYRING": str(trusted.keyring),
        "HARNESS_DISTRIBUTIONS": str(record),
        # For the snapshot archive alone, so that Debian's own mirror goes on to be verified by Debian's keys.
        "HARNESS_DEBIAN_REMOVED_KEYS": str(trusted.keyring),
    }


def cached(only: str, flavour: str) -> list[Kernel]:
    """Return the kernels of a flavour for x86-64 in the cache, or those whose version begins as `only` says."""
    kernels = [entry.kernel(str(entry.version)) for entry in kernel_cache.entries()]
    return [
        one
        for one in kernels
        if one.bzimage is not None
        and one.flavour == flavour
        and one.architecture == "amd64"
        and re.match(rf"{re.escape(only)}(\.|$)" if only else "", str(one.version))
    ]


@contextmanager
def signer_in(folder: Path, who: str = "archive") -> Iterator[Signer]:
    """Make a key that ends with the body."""
    signer = Signer(folder, who)
    try:
        yield signer
    finally:
        signer.stop()


def main() -> None:
    """Serve until the user ends it."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__)
    parser.add_argument("--kernel", default="", help="only kernels of this series or release")
    parser.add_argument("--as", dest="version", default="", help="serve under this version, such as 6.6.15")
    parser.add_argument("--flavour", default="cloud", help="only kernels of this flavour (default: cloud)")
    parser.add_argument("--port", type=int, default=0, help="default: any that is free")
    parser.add_argument(
        "--source", type=Path, action="append", default=[], help="a linux-VERSION.tar.xz for kernel.org"
    )
    parser.add_argument(
        "--fault", action="append", default=[], help=f"PATTERN=NAME: a path goes wrong: {', '.join(NAMED_FAULTS)}"
    )
    parser.add_argument("--stranger", action="store_true", help="sign with another key than the settings name")
    parser.add_argument("--reversed", action="store_true", help="list everything in the opposite order")
    arguments = parser.parse_args()
    faults = dict(one.rpartition("=")[::2] for one in arguments.fault)
    if unknown := set(faults.values()) - set(NAMED_FAULTS):
        parser.error(f"there is no fault {', '.join(sorted(unknown))}; there are {', '.join(NAMED_FAULTS)}")
    kernels = [(one, arguments.version or str(one.version)) for one in cached(arguments.kernel, arguments.flavour)]
    if not kernels:
        parser.error("the kernel cache has no such kernel: harness kernels fetch 6.1")
    # A shell starts what runs in the background with interrupts ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    # gpg's socket needs a short path.
    folder = Path(tempfile.mkdtemp(prefix="harness-servers-"))
    (folder / "www").mkdir()
    try:
        with ExitStack() as stack:
            server = stack.enter_context(serve(arguments.port))
            trusted = stack.enter_context(signer_in(folder / "gpg"))
            signer = stack.enter_context(signer_in(folder / "other", "stranger")) if arguments.stranger else trusted
            settings = fill(
                server,
                folder / "www",
                kernels,
                signer,
                trusted=trusted,
                tarballs=[p.absolute() for p in arguments.source],
            )
            for site in server.sites.values():
                # A snapshot archive lists the newest first, a folder the oldest.
                site.newest_first = site.newest_first != arguments.reversed
            for name, value in settings.items():
                print(f"export {name}={shlex.quote(value)}", flush=True)
            print(f"# {server.url} serves {', '.join(version for _, version in kernels)}; Ctrl-C ends it", flush=True)
            server.faults = {pattern: NAMED_FAULTS[name]() for pattern, name in faults.items()}
            server.log = lambda path: print(f"# asked for {path}", file=sys.stderr, flush=True)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
