"""The command that boots a guest: what vng is asked for, and what is left of that for QEMU."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.image.rootfs import Rootfs
from harness.util import architecture
from harness.vm.command import (
    FILE_SCRIPT,
    Inherited,
    clone_argv,
    kernel_words,
    qemu_options,
    shell_argv,
    vng_argv,
    wrapper_script,
)
from harness.vm.network import Network, link_card, network_named, without_warnings
from harness.vm.spec import Accel, MachineSpec, Needs
from tests.unit.vm.specs import spec_of

SPEC = spec_of("/k/vmlinux", "/i/guest image.cpio", Needs(memory=512, cpus=2, parameters=("quiet",)))
RUN_DIR = Path("/run/vm-1")


def argv_of(spec: MachineSpec) -> list[str]:
    return vng_argv(
        spec, kernel=spec.kernel.boot_image, vng=Path("/bin/vng"), qemu=Path("/run/vm-1/qemu"), run_dir=RUN_DIR
    )


def value_after(argv: list[str], option: str) -> str:
    return argv[argv.index(option) + 1]


def test_the_kernel_the_memory_and_the_processors_are_the_specs() -> None:
    argv = argv_of(SPEC)
    assert value_after(argv, "--run") == "/k/vmlinux"
    assert value_after(argv, "--memory") == "512M"
    assert value_after(argv, "--cpus") == "2"
    assert value_after(argv, "--qemu") == "/run/vm-1/qemu"


def test_the_hosts_root_is_never_the_guests() -> None:
    argv = argv_of(SPEC)
    assert value_after(argv, "--root") == value_after(argv, "--cwd") == "/run/vm-1/root"


def test_vng_looks_for_no_modules_of_the_kernels() -> None:
    assert "--skip-modules" in argv_of(SPEC)


def test_the_replacement_of_file_gives_vng_a_version(tmp_path: Path) -> None:
    # As vng reads it: parts cut at ", ", one of which begins with the word version.
    stand_in = tmp_path / "file"
    stand_in.write_text(FILE_SCRIPT)
    stand_in.chmod(0o700)
    told = subprocess.run([stand_in, tmp_path / "vmlinux"], capture_output=True, text=True, check=True).stdout
    assert any(re.search(r"^[vV]ersion (\S{3,})", part) for part in told.split(", "))


def test_kvm_is_switched_off_for_software_emulation_alone() -> None:
    assert "--disable-kvm" in argv_of(SPEC)
    assert "--disable-kvm" not in argv_of(SPEC.running_under(Accel.KVM))


def test_every_word_of_the_kernel_command_line_is_handed_over() -> None:
    argv = argv_of(SPEC)
    appended = [argv[at + 1] for at, word in enumerate(argv) if word == "--append"]
    assert appended == list(kernel_words(SPEC))
    assert "panic=-1" in appended
    assert appended[-1] == "quiet"


def test_a_path_with_a_blank_stays_one_word() -> None:
    # vng splits each of these again as a shell would.
    argv = argv_of(dataclasses.replace(SPEC, ram=Path("/my ram")))
    options = [shlex.split(word.removeprefix("--qemu-opts=")) for word in argv if word.startswith("--qemu-opts=")]
    assert ["-initrd", "/i/guest image.cpio"] in options
    assert ["-object", "memory-backend-file,id=harness-ram,size=512M,mem-path=/my ram,share=on"] in options


def test_a_comma_in_the_path_of_the_memory_does_not_end_it() -> None:
    options = qemu_options(dataclasses.replace(SPEC, ram=Path("/my,ram")), RUN_DIR)
    assert any("mem-path=/my,,ram,share=on" in option for option in options)


RECORDED = [
    "/usr/bin/qemu-system-x86_64",
    *("-kernel", "/k/vmlinux", "-append", "quiet", "-initrd", "/i"),
    *("-chardev", "stdio,id=console,signal=off,mux=off"),
    *("-object", "memory-backend-file,id=harness-ram,size=512M,mem-path=/my,,templates/ram,share=on"),
    *("-chardev", "socket,id=harness,path=/run/vm-1/channel.sock"),
    *("-object", "memory-backend-file,id=harness-shared,mem-path=/run/vm-1/shared,size=4096,share=on"),
    *("-qmp", "unix:/run/vm-1/qmp.sock,server=on,wait=off"),
    *("-sandbox", "on"),
]


def clone_of(ram: int | None, *, private_rom: bool = False) -> list[str]:
    return clone_argv(RECORDED, run_dir=RUN_DIR, inherited=Inherited(3, 4, 5, 6, ram, private_rom))


ROOTFS = Rootfs(Path("/c/my,disk.ext4"), "1")


def test_a_disk_is_only_read_and_the_guest_is_told_of_it() -> None:
    spec = dataclasses.replace(SPEC, rootfs=ROOTFS)
    option = "file=/c/my,,disk.ext4,if=none,id=harness-disk,format=raw,readonly=on"
    assert f"-drive {option}" in qemu_options(spec, RUN_DIR)
    assert "-device virtio-blk-pci,drive=harness-disk" in qemu_options(spec, RUN_DIR)
    assert "harness.rootfs=/dev/vda" in kernel_words(spec)
    assert not any("disk" in word for word in (*qemu_options(SPEC, RUN_DIR), *kernel_words(SPEC)))
    recorded = ["qemu", "-drive", option]
    argv = clone_argv(recorded, run_dir=RUN_DIR, inherited=Inherited(3, 4, 5, 6, 7, private_rom=False, disk=8))
    assert argv[1:3] == ["-drive", "file=/proc/self/fd/8,if=none,id=harness-disk,format=raw,readonly=on"]


def test_a_machine_has_a_network_only_when_one_is_named() -> None:
    for network in (Network.NONE, Network.LOOPBACK):
        spec = spec_of("/k", "/i", Needs(network=network))
        assert not any(word in option for option in qemu_options(spec, RUN_DIR) for word in ("net", "nic"))
        assert ("harness.loopback=off" in kernel_words(spec)) is (network is Network.NONE)
    spec = spec_of("/k", "/i", Needs(network=Network.USER))
    options = qemu_options(spec, RUN_DIR)
    backend = "user,id=harness-user,net=10.0.2.0/24,host=10.0.2.2,dns=10.0.2.3,ipv6=off"
    assert f"-netdev {backend}" in options
    assert "-device virtio-net-pci,romfile=,guest_announce=off,netdev=harness-user,mac=52:54:00:6b:68:ff" in options
    assert "harness.cards=52:54:00:6b:68:ff,10.0.2.15/24,10.0.2.2,10.0.2.3" in kernel_words(spec)


def test_a_card_for_another_machine_ends_in_a_hub_that_always_takes_what_it_sends() -> None:
    spec = spec_of("/k", "/i", Needs(nics=2))
    options = qemu_options(spec, RUN_DIR)
    for number in (0, 1):
        assert f"-netdev hubport,id=harness-sink{number},hubid={number}" in options
        assert f"-netdev hubport,id=harness-link{number},hubid={number}" in options
        device = f"virtio-net-pci,romfile=,guest_announce=off,netdev=harness-link{number},mac=52:54:00:6b:01:0{number}"
        assert f"-device {device}" in options
    cards = "52:54:00:6b:01:00,10.1.0.1/24+52:54:00:6b:01:01,10.1.1.1/24"
    assert f"harness.cards={cards}" in kernel_words(spec)
    assert (link_card(1, 2).mac, link_card(1, 2).address) == ("52:54:00:6b:02:01", "10.1.1.2/24")


def test_what_qemu_says_of_hubs_is_not_the_consoles() -> None:
    said = [
        "qemu-system-x86_64: warning: hub port harness-sink0 has no peer\r",
        "qemu-system-x86_64: warning: hub 0 is not connected to host network",
        "qemu-system-x86_64: warning: netdev harness-sink0 has no peer",
        "qemu-system-x86_64: warning: something else",
    ]
    assert without_warnings(said) == said[3:]


def test_a_network_that_is_none_is_one_error() -> None:
    assert network_named("user") is Network.USER
    with pytest.raises(UsageError, match="no network 'bridge' for a guest"):
        network_named("bridge")


def test_a_clone_gets_descriptors_in_place_of_paths_and_loads_no_kernel() -> None:
    assert clone_of(7) == [
        "/usr/bin/qemu-system-x86_64",
        *("-chardev", "file,id=console,path=/proc/self/fd/6"),
        *("-object", "memory-backend-file,id=harness-ram,size=512M,mem-path=/proc/self/fd/7,share=off"),
        *("-chardev", "socket,id=harness,fd=4"),
        *("-object", "memory-backend-file,id=harness-shared,mem-path=/proc/self/fd/5,size=4096,share=on"),
        *("-chardev", "socket,id=monitor,fd=3", "-qmp", "chardev:monitor"),
        *("-sandbox", "on", "-name", "/run/vm-1", "-incoming", "defer"),
    ]


def test_a_qemu_that_can_is_told_that_it_may_only_read_the_memory() -> None:
    assert "mem-path=/proc/self/fd/7,share=off,readonly=on,rom=off" in " ".join(clone_of(7, private_rom=True))


def test_a_state_that_contains_the_memory_needs_no_file() -> None:
    assert "memory-backend-ram,id=harness-ram,size=512M" in clone_of(None)


def test_a_spec_under_another_acceleration_is_the_same_otherwise() -> None:
    other = SPEC.running_under(Accel.KVM)
    assert (other.accel, SPEC.accel) == (Accel.KVM, Accel.TCG)
    assert dataclasses.replace(other, acceleration=SPEC.acceleration) == SPEC


def test_what_an_image_holds_besides_is_imported_before_the_machine_is_saved() -> None:
    spec = spec_of("/k", "/i", Needs(parameters=("quiet",), image="bcc"))
    assert kernel_words(spec)[-2:] == ("quiet", "harness.preload=bcc")


@pytest.fixture
def wrapper(tmp_path: Path) -> Path:
    qemu = tmp_path / "fake qemu"
    qemu.write_text("""#!/bin/sh\nfor word in "$@"; do printf '<%s>\\n' "$word"; done\n""")
    qemu.chmod(0o755)
    wrapper = tmp_path / "qemu"
    wrapper.write_text(wrapper_script(qemu, tmp_path, architecture.require("amd64").dropped))
    wrapper.chmod(0o700)
    return wrapper


def what_qemu_gets(wrapper: Path, *words: str) -> list[str]:
    done = subprocess.run([wrapper, *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [line[1:-1] for line in done.stdout.splitlines()]


def test_exports_of_the_hosts_files_do_not_reach_qemu(wrapper: Path) -> None:
    words = [
        "-fsdev",
        "local,id=root,path=/,security_model=none",
        "-device",
        "virtio-9p-pci,fsdev=root,mount_tag=/dev/root",
    ]
    assert what_qemu_gets(wrapper, "-m", "256M", *words, "-smp", "1") == ["-m", "256M", "-smp", "1"]


def test_all_else_reaches_qemu_unchanged_and_in_order(wrapper: Path) -> None:
    words = ["-append", "a 'b' \"c\" $d *", "-device", "e1000,netdev=n", "", "-kernel", "/k/vm linux", "-no-reboot"]
    assert what_qemu_gets(wrapper, *words) == words


def test_an_export_may_come_first_and_last(wrapper: Path) -> None:
    export = ["-device", "virtconsole,chardev=c"]
    assert what_qemu_gets(wrapper, *export, "-m", "1", *export) == ["-m", "1"]


def test_what_the_harness_adds_comes_last(wrapper: Path, tmp_path: Path) -> None:
    wrapper.write_text(wrapper_script(tmp_path / "fake qemu", tmp_path, (), "-sandbox", "on,x=deny"))
    assert what_qemu_gets(wrapper, "-m", "1") == ["-m", "1", "-sandbox", "on,x=deny"]


def test_the_command_and_the_pid_are_noted(wrapper: Path, tmp_path: Path) -> None:
    what_qemu_gets(wrapper, "-append", "two words", "-fsdev", "x")
    noted = (tmp_path / "qemu.argv").read_bytes().split(b"\0")
    assert noted == [str(tmp_path / "fake qemu").encode(), b"-append", b"two words", b""]
    assert int((tmp_path / "qemu.pid").read_text()) > 1


def test_a_question_for_the_version_starts_no_machine(wrapper: Path, tmp_path: Path) -> None:
    assert what_qemu_gets(wrapper, "--version") == ["--version"]
    assert not (tmp_path / "qemu.pid").exists()


def test_a_shell_runs_on_the_hosts_root_and_never_writes_it() -> None:
    argv = shell_argv(
        Path("/k/vmlinux"), Accel.TCG, vng=Path("/bin/vng"), memory=512, cpus=2, writable=[Path("/root"), Path("/w")]
    )
    assert [argv[at + 1] for at, word in enumerate(argv) if word == "--overlay-rwdir"] == ["/root", "/w"]
    assert value_after(argv, "--run") == "/k/vmlinux"
    assert value_after(argv, "--user") == "root"
    assert value_after(argv, "--memory") == "512M"
    assert value_after(argv, "--cpus") == "2"
    assert "--disable-kvm" in argv
    assert not {"--rw", "--root", "--rwdir", "--"} & set(argv)


def test_a_command_for_a_shell_is_one_word_that_a_shell_reads() -> None:
    argv = shell_argv(
        Path("/k"), Accel.KVM, vng=Path("/bin/vng"), memory=512, cpus=1, command=["sh", "-c", "exit 3; $x"]
    )
    assert "--disable-kvm" not in argv
    assert argv[argv.index("--") + 1 :] == ["sh -c 'exit 3; $x'"]
