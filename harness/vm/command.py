"""Composes the `vng` command that boots a guest. Pure: records in, argument lists and script text out.

Imports the wire format from harness.guest, and the specification beside it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from harness.guest.wire import SHARED_SIZE
from harness.vm.spec import Accel, MachineSpec

CONSOLE, CHANNEL = "/dev/ttyS0", "/dev/ttyS1"

CHANNEL_SOCKET, QMP_SOCKET = "channel.sock", "qmp.sock"
"""Names of the sockets in the machine's folder: the harness listens on the first, QEMU on the second."""

TOOLS = "bin"
"""Name of the folder, in the machine's folder, of the programs that stand in for others when vng looks for them."""

CONSOLE_LOG = "console.log"
"""Name of the file, in the machine's folder, that keeps the console."""

SHARED = "shared"
"""Name of the file, in the machine's folder, of the memory that host and guest share."""


def kernel_words(spec: MachineSpec) -> tuple[str, ...]:
    """Return the words added to the kernel command line, each with its reason."""
    return (
        f"console={CONSOLE.removeprefix('/dev/')}",
        # Warnings and worse reach the console (an oops is printed at the default level, 4); the rest costs boot time.
        "loglevel=5",
        # A panic ends QEMU at once (with -no-reboot), so that the host learns of it without a time-out.
        "panic=-1",
        f"harness.channel={CHANNEL}",
        *spec.parameters,
    )


def qemu_options(spec: MachineSpec, run_dir: Path) -> tuple[str, ...]:
    """Return the options added to the QEMU command that vng composes.

    Args:
        spec: What to boot.
        run_dir: The machine's private folder, where the harness listens on the channel's socket.
    """
    memory = (
        (
            "-object "
            + shlex.quote(f"memory-backend-file,id=harness-ram,size={spec.needs.memory}M,mem-path={spec.ram},share=on"),
            "-machine memory-backend=harness-ram",
        )
        if spec.ram is not None
        else ()
    )
    return (
        *memory,
        f"-initrd {shlex.quote(str(spec.image.path))}",
        # No CD-ROM drive, no parallel port: each costs start-up time and nothing uses them.
        "-nodefaults",
        "-no-reboot",
        # The second serial port: the one device that every kernel has a driver for without loading a module.
        f"-chardev socket,id=harness,path={run_dir / CHANNEL_SOCKET}",
        "-serial chardev:harness",
        # Memory that host and guest both map, through a PCI device that needs no driver either. Without master=on a
        # machine that has it cannot be saved.
        f"-object memory-backend-file,id=harness-shared,mem-path={run_dir / SHARED},size={SHARED_SIZE},share=on",
        "-device ivshmem-plain,memdev=harness-shared,master=on",
        f"-qmp unix:{run_dir / QMP_SOCKET},server=on,wait=off",
    )


def vng_argv(spec: MachineSpec, *, kernel: Path, vng: Path, qemu: Path, run_dir: Path) -> list[str]:
    """Return the command that boots the guest.

    Args:
        spec: What to boot.
        kernel: The path of its boot image that vng is to be given.
        vng: The `vng` program.
        qemu: The QEMU program or wrapper that vng is to start.
        run_dir: The machine's private folder; its empty `root` is what vng takes for the guest's root.
    """
    argv = [str(vng), "--run", str(kernel), "--qemu", str(qemu)]
    argv += ["--root", str(run_dir / "root"), "--cwd", str(run_dir / "root")]  # never the host's own root
    argv += ["--force-9p"]  # no virtiofsd process: nothing is exported, see wrapper_script
    # The guest image brings its own modules. Without this vng looks for depmod and a static busybox.
    argv += ["--skip-modules"]
    argv += ["--user", "root"]
    argv += ["--memory", f"{spec.needs.memory}M", "--cpus", str(spec.needs.cpus)]
    argv += ["--disable-microvm"]  # it hung on one kernel in software emulation, and q35 is as fast
    argv += ["--disable-monitor"]  # the console is the kernel's alone
    if spec.accel is Accel.TCG:
        argv += ["--disable-kvm"]
    for word in kernel_words(spec):
        argv += ["--append", word]
    # One option an argument: vng splits each again as a shell would.
    for option in qemu_options(spec, run_dir):
        argv += [f"--qemu-opts={option}"]
    return argv


def plain_vng_argv(spec: MachineSpec, *, vng: Path) -> list[str]:
    """Return a command that has vng boot the same kernel by itself, for a person who wants to see where vng fails."""
    argv = [str(vng), "--run", str(spec.kernel.boot_image), "--force-9p", "--skip-modules", "--user", "root"]
    argv += [
        "--memory",
        f"{spec.needs.memory}M",
        "--cpus",
        str(spec.needs.cpus),
        "--disable-microvm",
        "--disable-monitor",
    ]
    return [*argv, *(["--disable-kvm"] if spec.accel is Accel.TCG else [])]


def plain_argv(spec: MachineSpec, *, qemu: Path) -> list[str]:
    """Return a command that boots the same guest in a terminal, for a person who wants to see how far it gets."""
    argv = [str(qemu), "-machine", "q35", "-nographic", "-no-reboot"]
    argv += ["-accel", spec.accel.value, "-cpu", "max"]
    argv += ["-m", f"{spec.needs.memory}M", "-smp", str(spec.needs.cpus)]
    argv += ["-kernel", str(spec.kernel.boot_image), "-initrd", str(spec.image.path)]
    return [*argv, "-append", " ".join(("console=ttyS0", "panic=-1", *spec.parameters))]


def shell_argv(
    image: Path,
    accel: Accel,
    *,
    vng: Path,
    memory: int,
    cpus: int,
    writable: Sequence[Path] = (),
    command: Sequence[str] = (),
) -> list[str]:
    """Return the command that boots a kernel on the host's own root, read-only below an overlay, and opens a shell.

    Args:
        image: The kernel's boot image; vng finds the modules that lie beside it.
        accel: Acceleration.
        vng: The `vng` program.
        memory: MiB of guest memory.
        cpus: Number of virtual CPUs.
        writable: Folders that get an overlay beside those that vng gives one (/etc, /home, /usr, /var, /tmp, ...).
        command: What to run instead of a shell.
    """
    argv = [str(vng), "--run", str(image), "--user", "root"]
    for folder in writable:
        argv += ["--overlay-rwdir", str(folder)]
    argv += ["--memory", f"{memory}M", "--cpus", str(cpus)]
    argv += ["--force-9p"]  # virtiofs would need a daemon on the host, and fewer kernels have it
    argv += ["--disable-microvm"]  # it hung on one kernel in software emulation, and q35 is as fast
    if accel is Accel.TCG:
        argv += ["--disable-kvm"]
    return [*argv, "--", shlex.join(command)] if command else argv


# Devices of vng's own that a guest without a file system from the host has no use for, and pays for at every boot.
_DROPPED = ("virtio-9p-pci,*", "virtio-serial-pci", "virtconsole,*", "i6300esb,*")


FILE_SCRIPT = """#!/bin/sh
echo "$1: kernel image, version not-asked, "
"""
"""A stand-in for `file`, which vng asks for the version of a kernel that it has no use for here. Where `file` does not
tell, as of an ELF image, vng reads all of the image with `strings`, of binutils."""

QEMU_ARGV = "qemu.argv"
"""Name of the file, in the machine's folder, that the wrapper writes QEMU's command to before it starts QEMU."""


def wrapper_script(qemu: Path, run_dir: Path) -> str:
    """Return a shell script that stands in for QEMU: it drops the exports vng adds, notes the command, and starts QEMU.

    vng has no option to boot without exporting a folder, and no folder of the host is to be reachable from the guest.

    Args:
        qemu: The real QEMU.
        run_dir: Where the final command is written, one argument a line, to QEMU_ARGV.
    """
    dropped = "|".join(f"-device:{device}" for device in _DROPPED)
    return f"""#!/bin/sh
if [ "$1" = --version ]; then exec {shlex.quote(str(qemu))} "$@"; fi
left=$#
while [ "$left" -gt 0 ]; do
    option=$1; shift; left=$((left - 1))
    case "$option:$1" in
    -fsdev:*|{dropped}) shift; left=$((left - 1)) ;;
    *) set -- "$@" "$option" ;;
    esac
done
printf '%s\\0' {shlex.quote(str(qemu))} "$@" > {shlex.quote(str(run_dir / QEMU_ARGV))}
echo "$$" > {shlex.quote(str(run_dir / "qemu.pid"))}
exec {shlex.quote(str(qemu))} "$@"
"""


# Options of a recorded command that a clone must not repeat: what the kernel was loaded from is in its memory already,
# and reading it again would cost more than all the rest.
_BOOT_OPTIONS = ("-kernel", "-initrd", "-append")


def clone_argv(recorded: list[str], *, template: Path, run_dir: Path, monitor: int, whole_stream: bool) -> list[str]:
    """Return the command that starts a clone from a template's recorded QEMU command.

    Args:
        recorded: The command, with TEMPLATE and RUN in place of the two folders.
        template: The template's folder.
        run_dir: The clone's private folder.
        monitor: Descriptor of a connected socket that QEMU inherits, its monitor's.
        whole_stream: Whether the saved state holds the guest's memory; else that is the template's RAM file.
    """
    argv = [recorded[0]]
    rest = iter(recorded[1:])
    for option in rest:
        if option in _BOOT_OPTIONS:
            next(rest)
            continue
        value = option.replace(RUN, str(run_dir)).replace(TEMPLATE, str(template))
        if value.startswith("memory-backend-file,id=harness-ram,"):
            # Copy on write: the template's file is never written again.
            value = value.replace(",share=on", ",share=off")
            if whole_stream:
                # There is no such file, and QEMU would make one.
                fields = [field for field in value.split(",") if not field.startswith(("mem-path=", "share="))]
                value = ",".join(["memory-backend-ram", *fields[1:]])
        elif value.startswith("stdio,id=console,"):
            # A file needs nobody to drain it.
            value = f"file,id=console,path={run_dir / CONSOLE_LOG}"
        elif value.startswith("unix:") and option.endswith("server=on,wait=off"):
            value = "chardev:monitor"
            argv[-1:] = ["-chardev", f"socket,id=monitor,fd={monitor}", "-qmp"]
        argv.append(value)
    return [*argv, "-incoming", "defer"]


def clone_commands(state: Path, descriptor: int | None) -> bytes:
    """Return the monitor commands that have a clone load its state, as they lie ready when QEMU starts.

    Args:
        state: The saved state, without the guest's memory.
        descriptor: One that QEMU inherits to read it from; None for none.
    """
    # A descriptor spares two programs. Not one of a file: QEMU deprecates that (in 9.1).
    source = f"exec:cat {shlex.quote(str(state))}" if descriptor is None else f"fd:{descriptor}"
    capability = {"capability": "x-ignore-shared", "state": True}
    commands: list[dict[str, object]] = [
        {"execute": "qmp_capabilities"},
        {"execute": "migrate-set-capabilities", "arguments": {"capabilities": [capability]}},
        {"execute": "migrate-incoming", "arguments": {"uri": source}},
    ]
    return b"".join(json.dumps(command).encode() + b"\n" for command in commands)


RUN, TEMPLATE = "{run}", "{template}"
"""What stands for a machine's own folder, and its template's, in a recorded command."""


def record_argv(argv: list[str], *, run_dir: Path, template: Path) -> list[str]:
    """Return a QEMU command with placeholders for the two folders, as :func:`clone_argv` takes it."""
    return [arg.replace(str(run_dir), RUN).replace(str(template), TEMPLATE) for arg in argv]
