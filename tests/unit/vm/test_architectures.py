"""The command lines of each architecture, word by word, on hosts of both."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.util import architecture
from harness.vm.command import plain_argv, plain_vng_argv, vng_argv
from harness.vm.spec import Accel, MachineSpec, Needs
from tests.unit.vm.specs import spec_of

RUN = Path("/run/vm-1")

COMMON = (
    "--root /run/vm-1/root --cwd /run/vm-1/root --force-9p --skip-modules --user root --memory 256M --cpus 1 "
    "--disable-microvm --disable-monitor"
).split()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Yield a function that makes this a machine of another architecture, by what `uname -m` prints."""

    def become(machine: str) -> None:
        monkeypatch.setattr(platform, "machine", lambda: machine)
        architecture.own.cache_clear()

    yield become
    monkeypatch.undo()
    architecture.own.cache_clear()


def spec(name: str, accel: Accel = Accel.TCG) -> MachineSpec:
    made = spec_of("/k/image", "/i/image.cpio", Needs(parameters=("quiet",)))
    kernel = dataclasses.replace(made.kernel, architecture=name)
    return dataclasses.replace(made.running_under(accel), kernel=kernel, ram=Path("/t/ram"))


def argv_of(made: MachineSpec) -> list[str]:
    return vng_argv(made, kernel=Path("/k/image"), vng=Path("/bin/vng"), qemu=Path("/run/vm-1/qemu"), run_dir=RUN)


def appended(console: str, channel: str, *own: str) -> list[str]:
    words = (f"console={console}", "loglevel=5", "panic=-1", f"harness.channel=/dev/{channel}", *own, "quiet")
    return [part for word in words for part in ("--append", word)]


def qemu_options(*channel: str, machine: tuple[str, ...] = (), shared: bool = True) -> list[str]:
    memory = (
        "-object memory-backend-file,id=harness-shared,mem-path=/run/vm-1/shared,size=4194304,share=on",
        "-device ivshmem-plain,memdev=harness-shared,master=on",
    )
    options = (
        "-object memory-backend-file,id=harness-ram,size=256M,mem-path=/t/ram,share=on",
        "-machine memory-backend=harness-ram",
        "-initrd /i/image.cpio",
        "-nodefaults",
        *machine,
        "-no-reboot",
        "-chardev socket,id=harness,path=/run/vm-1/channel.sock",
        *channel,
        *(memory if shared else ()),
        "-qmp unix:/run/vm-1/qmp.sock,server=on,wait=off",
    )
    return [f"--qemu-opts={option}" for option in options]


BEGIN = ["/bin/vng", "--run", "/k/image"]
QEMU = ["--qemu", "/run/vm-1/qemu"]
X86 = [
    *appended("ttyS0", "ttyS1", "no_timer_check"),
    *qemu_options("-serial chardev:harness", machine=("-machine sata=off,smbus=off",)),
]
ARM = [*appended("ttyAMA0", "ttyS0"), *qemu_options("-device pci-serial,chardev=harness")]
S390 = [
    *appended("ttysclp0", "virtio-ports/harness"),
    *qemu_options(
        "-device virtio-serial-ccw,id=harness-serial",
        "-device virtserialport,chardev=harness,name=harness",
        machine=("-cpu max,vx=off",),
        shared=False,
    ),
]
PPC = [
    *appended("hvc0", "virtio-ports/harness", "nmi_watchdog=0"),
    *qemu_options(
        "-device virtio-serial-pci,id=harness-serial",
        "-device virtserialport,chardev=harness,name=harness",
        machine=("-machine x-vof=on,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off", "-cpu power9"),
        shared=False,
    ),
]
RISCV = [*appended("ttyS0", "ttyS1"), *qemu_options("-device pci-serial,chardev=harness")]


def test_an_x86_64_machine_boots_its_own_kernels_as_ever(host: Callable[[str], None]) -> None:
    host("x86_64")
    assert argv_of(spec("amd64")) == [*BEGIN, *QEMU, *COMMON, "--disable-kvm", *X86]
    assert argv_of(spec("amd64", Accel.KVM)) == [*BEGIN, *QEMU, *COMMON, *X86]


def test_an_x86_64_machine_boots_arm64_kernels(host: Callable[[str], None]) -> None:
    host("x86_64")
    assert argv_of(spec("arm64")) == [*BEGIN, "--arch", "arm64", *QEMU, *COMMON, "--disable-kvm", *ARM]


def test_a_machine_without_serial_ports_and_shared_memory_has_a_port_of_virtio(host: Callable[[str], None]) -> None:
    host("x86_64")
    assert argv_of(spec("s390x")) == [*BEGIN, "--arch", "s390x", *QEMU, *COMMON, "--disable-kvm", *S390]


def test_an_x86_64_machine_boots_ppc64el_kernels(host: Callable[[str], None]) -> None:
    host("x86_64")
    assert argv_of(spec("ppc64el")) == [*BEGIN, "--arch", "ppc64el", *QEMU, *COMMON, "--disable-kvm", *PPC]


def test_an_x86_64_machine_boots_riscv64_kernels(host: Callable[[str], None]) -> None:
    host("x86_64")
    assert argv_of(spec("riscv64")) == [*BEGIN, "--arch", "riscv64", *QEMU, *COMMON, "--disable-kvm", *RISCV]


def test_an_x86_64_machine_boots_armhf_kernels(host: Callable[[str], None]) -> None:
    host("x86_64")
    assert argv_of(spec("armhf")) == [*BEGIN, "--arch", "armhf", *QEMU, *COMMON, "--disable-kvm", *ARM]


def test_a_kernel_with_pages_of_16_kib_gets_a_processor_that_has_them(host: Callable[[str], None]) -> None:
    host("x86_64")
    made = spec("arm64")
    pages = argv_of(dataclasses.replace(made, kernel=dataclasses.replace(made.kernel, flavour="16k")))
    assert [word for word in pages if word not in argv_of(made)] == ["--qemu-opts=-cpu max,pauth-impdef=on"]


def test_on_an_arm64_machine_arm64_is_native_and_x86_64_foreign(host: Callable[[str], None]) -> None:
    host("aarch64")
    assert argv_of(spec("arm64", Accel.KVM)) == [*BEGIN, *QEMU, *COMMON, *ARM]
    assert argv_of(spec("amd64")) == [*BEGIN, "--arch", "amd64", *QEMU, *COMMON, "--disable-kvm", *X86]


def test_the_commands_in_messages_fit_the_architecture(host: Callable[[str], None]) -> None:
    host("x86_64")
    x86, arm = (plain_argv(spec(name), qemu=Path("/q")) for name in ("amd64", "arm64"))
    rest = "-m 256M -smp 1 -kernel /k/image -initrd /i/image.cpio -append".split()
    assert x86 == [
        *"/q -machine q35 -nographic -no-reboot -accel tcg -cpu max".split(),
        *rest,
        "console=ttyS0 panic=-1 no_timer_check quiet",
    ]
    assert arm == [
        *"/q -machine virt -nographic -no-reboot -accel tcg -cpu cortex-a57".split(),
        *rest,
        "console=ttyAMA0 panic=-1 quiet",
    ]
    plain = "--force-9p --skip-modules --user root --memory 256M --cpus 1 --disable-microvm --disable-monitor"
    assert plain_vng_argv(spec("amd64"), vng=Path("/v")) == [
        *"/v --run /k/image".split(),
        *plain.split(),
        "--disable-kvm",
    ]
    assert plain_vng_argv(spec("arm64"), vng=Path("/v")) == [
        *"/v --run /k/image --arch arm64".split(),
        *plain.split(),
        "--disable-kvm",
    ]
