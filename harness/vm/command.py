"""Composes the `vng` command that boots a guest. Pure: records in, argument lists and script text out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.guest.wire import SHARED_SIZE
from harness.vm.monitor import FIRST, line
from harness.vm.network import cards_of, network_options
from harness.vm.spec import Accel, MachineSpec

CHANNEL_SOCKET, QMP_SOCKET = "channel.sock", "qmp.sock"
"""Names of the sockets in the machine's folder: the harness listens on the first, QEMU on the second."""

TOOLS = "bin"
"""Name of the folder, in the machine's folder, of programs that vng finds instead of this machine's."""

CONSOLE_LOG = "console.log"
"""Name of the file, in the machine's folder, with the console's output."""

SHARED = "shared"
"""Name of the file, in the machine's folder, of the memory that host and guest share."""


_DISK = ",if=none,id=harness-disk,format=raw,readonly=on"
"""What ends the option of the guest's disk; its image comes before."""


def kernel_words(spec: MachineSpec) -> tuple[str, ...]:
    """Return the parameters added to the kernel command line, each with its reason."""
    return (
        f"console={spec.architecture.console}",
        # Only warnings and worse go to the console (an oops is printed at the default level, 4); more costs boot time.
        "loglevel=5",
        # A panic ends QEMU at once (with -no-reboot), so that the host notices it without a time-out.
        "panic=-1",
        f"harness.channel=/dev/{spec.architecture.channel}",
        *spec.architecture.kernel_parameters,
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
            + shlex.quote(
                f"memory-backend-file,id=harness-ram,size={spec.needs.memory}M,"
                f"mem-path={str(spec.ram).replace(',', ',,')},share=on"
            ),
            "-machine memory-backend=harness-ram",
        )
        if spec.ram is not None
        else ()
    )
    disk = (
        (
            # Only read: the guest has an overlay in its memory over it. So it can be saved, and clones share it.
            "-drive " + shlex.quote(f"file={str(spec.rootfs.path).replace(',', ',,')}{_DISK}"),
            f"-device {spec.architecture.disk},drive=harness-disk",
        )
        if spec.rootfs is not None
        else ()
    )
    return (
        *memory,
        *disk,
        *network_options(cards_of(spec.needs.network, spec.needs.nics), spec.architecture.card),
        f"-initrd {shlex.quote(str(spec.image.path))}",
        # No CD-ROM drive, no parallel port, no controllers of disks and sensors: each costs start-up time, is something
        # that a guest can attack, and nothing uses them.
        "-nodefaults",
        *spec.architecture.machine_options,
        *filter(None, [spec.architecture.flavour_options.get(spec.kernel.flavour)]),
        "-no-reboot",
        f"-chardev socket,id=harness,path={run_dir / CHANNEL_SOCKET}",
        *spec.architecture.channel_options,
        *(_shared_memory(run_dir) if spec.architecture.shared else ()),
        f"-qmp unix:{run_dir / QMP_SOCKET},server=on,wait=off",
    )


def _shared_memory(run_dir: Path) -> tuple[str, ...]:
    """Return the options for memory that host and guest both map, through a PCI device that needs no driver.

    A machine with it can only be saved with master=on.
    """
    return (
        f"-object memory-backend-file,id=harness-shared,mem-path={run_dir / SHARED},size={SHARED_SIZE},share=on",
        "-device ivshmem-plain,memdev=harness-shared,master=on",
    )


def vng_argv(spec: MachineSpec, *, kernel: Path, vng: Path, qemu: Path, run_dir: Path) -> list[str]:
    """Return the command that boots the guest.

    Args:
        spec: What to boot.
        kernel: The path of its boot image that vng is to be given.
        vng: The `vng` program.
        qemu: The QEMU program or wrapper that vng starts.
        run_dir: The machine's private folder; vng uses its empty `root` as the guest's root.
    """
    argv = [str(vng), "--run", str(kernel), *_foreign(spec), "--qemu", str(qemu)]
    argv += ["--root", str(run_dir / "root"), "--cwd", str(run_dir / "root")]  # never the host's own root
    argv += ["--force-9p"]  # no virtiofsd process: nothing is exported, see wrapper_script
    # The guest image brings its own modules. Without this vng looks for depmod and a static busybox.
    argv += ["--skip-modules"]
    argv += ["--user", "root"]
    argv += ["--memory", f"{spec.needs.memory}M", "--cpus", str(spec.needs.cpus)]
    argv += ["--disable-microvm"]  # it hung on one kernel in software emulation, and q35 is as fast
    argv += ["--disable-monitor"]  # only the kernel writes to the console
    if spec.accel is Accel.TCG:
        argv += ["--disable-kvm"]
    for word in kernel_words(spec):
        argv += ["--append", word]
    # One option per argument: vng splits each again as a shell does.
    for option in qemu_options(spec, run_dir):
        argv += [f"--qemu-opts={option}"]
    return argv


def plain_vng_argv(spec: MachineSpec, *, vng: Path) -> list[str]:
    """Return a command that boots the same kernel with vng alone, to see where vng fails."""
    argv = [str(vng), "--run", str(spec.kernel.boot_image), *_foreign(spec)]
    argv += ["--force-9p", "--skip-modules", "--user", "root"]
    argv += [
        "--memory",
        f"{spec.needs.memory}M",
        "--cpus",
        str(spec.needs.cpus),
        "--disable-microvm",
        "--disable-monitor",
    ]
    return [*argv, *(["--disable-kvm"] if spec.accel is Accel.TCG else [])]


def _foreign(spec: MachineSpec) -> list[str]:
    """Return the option that names an architecture to vng; none for this machine's own."""
    return [] if spec.architecture.is_own else ["--arch", spec.architecture.vng]


def plain_argv(spec: MachineSpec, *, qemu: Path) -> list[str]:
    """Return a command that boots the same guest in a terminal, to see how far it gets."""
    argv = [str(qemu), "-machine", spec.architecture.qemu_machine, "-nographic", "-no-reboot"]
    argv += ["-accel", spec.accel.value, "-cpu", spec.architecture.cpu if spec.accel is Accel.TCG else "max"]
    argv += ["-m", f"{spec.needs.memory}M", "-smp", str(spec.needs.cpus)]
    argv += ["-kernel", str(spec.kernel.boot_image), "-initrd", str(spec.image.path)]
    words = (f"console={spec.architecture.console}", "panic=-1", *spec.architecture.kernel_parameters, *spec.parameters)
    return [*argv, "-append", " ".join(words)]


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
        image: The kernel's boot image; vng finds the modules beside it.
        accel: Acceleration.
        vng: The `vng` program.
        memory: MiB of guest memory.
        cpus: Number of virtual CPUs.
        writable: More folders that get an overlay, besides vng's own (/etc, /home, /usr, /var, /tmp, ...).
        command: The command to run instead of a shell.
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


FILE_SCRIPT = """#!/bin/sh
echo "$1: kernel image, version not-asked, "
"""
"""Replaces `file`, from which vng gets the kernel's version, which is not used here. When `file` gives no version, as
for an ELF image, vng reads the complete image with `strings` from binutils."""

QEMU_ARGV = "qemu.argv"
"""Name of the file, in the machine's folder, to which the wrapper writes QEMU's command before it starts QEMU."""


def wrapper_script(qemu: Path, run_dir: Path, dropped: Sequence[str], *options: str) -> str:
    """Return a shell script that vng starts as QEMU: it drops vng's exports, records the command, and starts QEMU.

    vng has no option to boot without exporting a folder, and the guest must not reach any folder of the host.

    Args:
        qemu: The real QEMU.
        run_dir: Folder of QEMU_ARGV, which receives the final command, each argument followed by a NUL.
        dropped: Shell patterns of devices that a guest without a host file system does not need; each costs time at
            every boot.
        options: More options for QEMU.
    """
    patterns = "|".join(("-fsdev:*", *(f"-device:{device}" for device in dropped)))
    return f"""#!/bin/sh
if [ "$1" = --version ]; then exec {shlex.quote(str(qemu))} "$@"; fi
left=$#
while [ "$left" -gt 0 ]; do
    option=$1; shift; left=$((left - 1))
    case "$option:$1" in
    {patterns}) shift; left=$((left - 1)) ;;
    *) set -- "$@" "$option" ;;
    esac
done
set -- "$@" {shlex.join(options)}
printf '%s\\0' {shlex.quote(str(qemu))} "$@" > {shlex.quote(str(run_dir / QEMU_ARGV))}
echo "$$" > {shlex.quote(str(run_dir / "qemu.pid"))}
exec {shlex.quote(str(qemu))} "$@"
"""


# Options of a recorded command that a clone omits: the kernel is already in its memory, and loading it again would cost
# more than everything else.
_BOOT_OPTIONS = ("-kernel", "-initrd", "-append")


@dataclass(frozen=True)
class Inherited:
    """The descriptors that the QEMU of a clone gets in place of paths, which it may have no permission to open.

    Attributes:
        monitor: A connected socket: its monitor.
        channel: A connected socket: the second serial port.
        shared: The memory that host and guest share.
        console: The file for the console's output.
        ram: The template's memory, which cannot be written through it; None when the saved state contains the memory.
        private_rom: Whether `ram` was opened for reading alone.
        disk: The image of its disk, for reading; None where it has none.
    """

    monitor: int
    channel: int
    shared: int
    console: int
    ram: int | None
    private_rom: bool
    disk: int | None = None


def clone_argv(recorded: list[str], *, run_dir: Path, inherited: Inherited) -> list[str]:
    """Return the command that starts a clone from a template's recorded QEMU command.

    Args:
        recorded: The command that booted the template.
        run_dir: The clone's private folder, for its name.
        inherited: What it uses in place of the paths in the recorded command.
    """
    argv = [recorded[0]]
    rest = iter(recorded[1:])
    for option in rest:
        if option in _BOOT_OPTIONS:
            next(rest)
            continue
        value = option
        if value.startswith("memory-backend-file,id=harness-ram,"):
            value = _memory_of_clone(value, inherited)
        elif value.startswith("memory-backend-file,id=harness-shared,"):
            value = _MEM_PATH.sub(f",mem-path={_opened(inherited.shared)}", value)
        elif inherited.disk is not None and value.endswith(_DISK):
            value = f"file={_opened(inherited.disk)}{_DISK}"
        elif value.startswith("socket,id=harness,"):
            value = f"socket,id=harness,fd={inherited.channel}"
        elif value.startswith("stdio,id=console,"):
            # Unlike a terminal, a file needs no reader.
            value = f"file,id=console,path={_opened(inherited.console)}"
        elif value.startswith("unix:") and option.endswith("server=on,wait=off"):
            value = "chardev:monitor"
            argv[-1:] = ["-chardev", f"socket,id=monitor,fd={inherited.monitor}", "-qmp"]
        argv.append(value)
    # The name shows in the list of processes whose machine it is.
    return [*argv, "-name", str(run_dir), "-incoming", "defer"]


_MEM_PATH = re.compile(r",mem-path=(?:[^,]|,,)*")


def _memory_of_clone(value: str, inherited: Inherited) -> str:
    """Return the clone's memory: copy on write, the template's is never written to."""
    size = next(field for field in value.split(",") if field.startswith("size="))
    if inherited.ram is None:
        return f"memory-backend-ram,id=harness-ram,{size}"
    access = ",readonly=on,rom=off" if inherited.private_rom else ""
    return f"memory-backend-file,id=harness-ram,{size},mem-path={_opened(inherited.ram)},share=off{access}"


def _opened(descriptor: int) -> str:
    """Return a path through which a process opens again what it inherited."""
    return f"/proc/self/fd/{descriptor}"


def clone_commands(state: int) -> bytes:
    """Return the monitor commands that make a clone load its state, written before QEMU starts.

    Args:
        state: Inherited descriptor from which QEMU reads the state, without the guest's memory. It must not be a
            file's: QEMU deprecates that (in 9.1).
    """
    capability = {"capability": "x-ignore-shared", "state": True}
    commands: list[dict[str, object]] = [
        *FIRST,
        {"execute": "migrate-set-capabilities", "arguments": {"capabilities": [capability]}},
        {"execute": "migrate-incoming", "arguments": {"uri": f"fd:{state}"}},
    ]
    return b"".join(line(command) for command in commands)
