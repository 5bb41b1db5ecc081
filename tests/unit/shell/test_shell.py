"""`harness shell`: which kernel it takes, what it runs, and what it refuses."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness import kernel as kernels
from harness.cli import main
from harness.errors import SelectorError, UsageError
from harness.image.build import Image
from harness.kernel.types import Choice, Kernel
from harness.kernel.version import KernelVersion
from harness.machines.pool import Pool, Settings
from harness.shell import root, streams
from harness.util import architecture
from harness.vm import process
from harness.vm.spec import Accel, Acceleration, MachineSpec

VERSION = KernelVersion(6, 1, 192)
CLOUD = Choice("6.1", VERSION, "debian", "6.1.0-56-cloud-amd64=6.1.192-2", "cloud")
GENERIC = Choice("6.1.192:generic", VERSION, "debian", "6.1.0-56-amd64=6.1.192-2", "generic")
MINIMAL = Choice("6.1.192:minimal", VERSION, "local", "6.1.192-minimal", "minimal")

REQUIRE_UDEV = process.require_udev

ABLE = "CONFIG_9P_FS=y\nCONFIG_NET_9P_VIRTIO=y\nCONFIG_VIRTIO_PCI=y\nCONFIG_OVERLAY_FS=y\n"
UNABLE = ABLE.replace("CONFIG_9P_FS=y", "# CONFIG_9P_FS is not set")


class World:
    """The kernels there are, and what was run in the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.offers = {"6.1": [CLOUD]}
        self.able = {CLOUD.key: False, GENERIC.key: True, MINIMAL.key: True}
        self.ran: list[str] = []

    def resolve(self, selectors: list[str], *, progress: object) -> list[Choice]:
        (selector,) = selectors
        if selector not in self.offers:
            raise SelectorError(f"no kernel matches {selector!r}")
        return self.offers[selector]

    def prepare(self, choice: Choice) -> MachineSpec:
        config = self.folder / f"config-{choice.flavour}"
        config.write_text(ABLE if self.able[choice.key] else UNABLE)
        image = self.folder / f"vmlinux-{choice.flavour}"
        found = Kernel(
            choice.label, VERSION, f"{VERSION}-{choice.flavour}", None, image, True, config, None, "", "", "here"
        )
        found = replace(found, flavour=choice.flavour)
        return MachineSpec(found, Image(image, ""), Acceleration(Accel.TCG, "a test"))

    def execve(self, program: str, argv: list[str], environment: dict[str, str]) -> None:
        assert program == argv[0]
        assert environment["PATH"].split(os.pathsep)[0] == str(Path(program).parent)
        self.ran = argv
        raise SystemExit(0)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path)
    monkeypatch.setattr(kernels, "resolve", world.resolve)
    monkeypatch.setattr(Pool, "prepare", lambda _pool, choice: world.prepare(choice))
    monkeypatch.setattr(os, "execve", world.execve)
    monkeypatch.setattr(streams, "can_be_opened_anew", lambda descriptor: True)
    monkeypatch.setattr(process, "find_vng", lambda: Path("/venv/bin/vng"))
    monkeypatch.setattr(process, "require_udev", lambda: None)
    return world


# Like vng, it opens its standard streams a second time; where it cannot, it says so and not what it was to say.
FAKE_VNG = """
import os, sys
for descriptor in range(3):
    os.close(os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR))
said = sys.stdin.read()
for descriptor in (1, 2):
    with open(f"/proc/self/fd/{descriptor}", "w") as stream:
        print("heard", said, file=stream)
sys.exit(7)
"""


def through_pipes(stdin: int, stdout: int, stderr: int) -> int:
    program = f"""
import os, sys
from harness.shell import streams
assert not all(map(streams.can_be_opened_anew, range(3)))
sys.exit(streams.through_pipes([sys.executable, "-c", {FAKE_VNG!r}], os.environ))
"""
    words = [sys.executable, "-c", program]
    return subprocess.run(words, stdin=stdin, stdout=stdout, stderr=stderr, check=False, timeout=120).returncode


def test_a_command_prints_to_what_cannot_be_opened_a_second_time() -> None:
    # Nobody can open a socket, not even root, whom no file refuses.
    here, there = socket.socketpair()
    with here, there:
        here.sendall(b"hello")
        here.shutdown(socket.SHUT_WR)
        assert through_pipes(there.fileno(), there.fileno(), there.fileno()) == 7
        there.close()
        with here.makefile() as answers:
            assert answers.read() == "heard hello\nheard hello\n"


def test_existing_content_of_a_file_is_not_truncated(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    with path.open("a") as log:
        assert through_pipes(subprocess.DEVNULL, log.fileno(), subprocess.DEVNULL) == 7
    assert path.read_text() == "before\nheard \n"


def test_a_stream_that_is_closed_is_none(tmp_path: Path) -> None:
    program = (
        "import os; from harness.shell import streams; os._exit(streams.through_pipes(['sh', '-c', 'cat; exit 5'], {}))"
    )
    done = subprocess.run(
        ["sh", "-c", f'exec "{sys.executable}" -c "$0" <&- >&- 2>&-', program], check=False, timeout=120
    )
    assert done.returncode == 5


def kernel_of(world: World) -> str:
    return Path(world.ran[world.ran.index("--run") + 1]).name


def run(*words: str) -> None:
    with pytest.raises(SystemExit):
        main(["shell", "--kernel", "6.1", *words, "--", "true"])


def test_a_kernel_that_can_mount_the_root_is_taken_as_it_is(world: World) -> None:
    world.able[CLOUD.key] = True
    run()
    assert kernel_of(world) == "vmlinux-cloud"
    assert world.ran[-2:] == ["--", "true"]


def test_one_that_cannot_gives_way_to_its_release_in_another_flavour(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.offers |= {"6.1.192:generic": [GENERIC], "6.1.192:minimal": [MINIMAL]}
    run()
    assert kernel_of(world) == "vmlinux-generic"
    assert (
        "6.1.192-cloud cannot mount this machine's root: it was built without CONFIG_9P_FS; taking 6.1.192-generic"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("generic_there", [True, False])
def test_the_minimal_flavour_is_the_last_resort(world: World, generic_there: bool) -> None:
    world.offers["6.1.192:minimal"] = [MINIMAL]
    if generic_there:
        world.offers["6.1.192:generic"] = [GENERIC]
        world.able[GENERIC.key] = False
    run()
    assert kernel_of(world) == "vmlinux-minimal"


def error_of(capsys: pytest.CaptureFixture[str], *words: str, status: int = 2) -> str:
    assert main(["shell", *words]) == status
    return capsys.readouterr().err


def test_without_any_one_error_says_what_to_do(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(capsys, "--kernel", "6.1", "--", "true")
    assert "it was built without CONFIG_9P_FS" in error
    assert "harness kernels build 6.1.192 --flavour minimal" in error
    assert "--image test" in error
    assert world.ran == []


def test_a_selection_of_several_kernels_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.offers["6.1"] = [CLOUD, GENERIC]
    assert "'6.1' names 2 kernels: 6.1, 6.1.192:generic" in error_of(capsys, "--kernel", "6.1", "--", "true")


def test_a_shell_without_a_terminal_is_refused(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert "a shell needs a terminal" in error_of(capsys, "--kernel", "6.1")


def test_a_command_without_udev_is_refused(
    world: World,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    take_away: Callable[[str], None],
) -> None:
    take_away("udevd")
    monkeypatch.setattr(process, "require_udev", REQUIRE_UDEV)
    assert "udevd is not installed" in error_of(capsys, "--kernel", "6.1", "--", "true", status=3)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--image", "test", "--", "true"), "a shell on the test image takes no command"),
        (("--modules", "veth"), "--modules belongs to --image test"),
        (("--memory", "64"), "--memory 64 is too little"),
        (("--image", "test", "--cpus", "0"), "--cpus 0 is too little"),
        (("--attach", "/nowhere"), "there is no guest at /nowhere"),
    ],
)
def test_what_does_not_go_together_is_refused(
    world: World, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], complaint: str
) -> None:
    assert complaint in error_of(capsys, *words)
    assert world.ran == []


def test_the_working_folder_is_writable_where_vng_has_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blank = tmp_path / "a b"
    blank.mkdir()
    monkeypatch.setattr(root, "_OVERLAYS", (tmp_path.parent,))
    assert tmp_path not in root._writable(tmp_path)  # vng has one around it
    monkeypatch.setattr(root, "_OVERLAYS", ())
    assert tmp_path in root._writable(tmp_path)
    assert blank not in root._writable(blank)
    assert Path("/") not in root._writable(Path("/"))


def test_a_kernel_of_another_architecture_cannot_run_on_this_machines_files(world: World) -> None:
    foreign = next(name for name in architecture.known() if name != architecture.own_name())
    choice = replace(CLOUD, architecture=foreign)
    with pytest.raises(UsageError, match=r"6\.1 cannot run on this machine's files") as caught:
        root.open_shell(Pool(Settings(), print), choice, ["true"], memory=512, cpus=1, say=print)
    assert "--image test" in str(caught.value)
    assert world.ran == []
