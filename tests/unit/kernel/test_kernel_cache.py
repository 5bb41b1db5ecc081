"""The cache of kernels: whole or not at all, checked on use, safe for processes side by side and for a kill."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import CacheError, KernelFileError
from harness.kernel import cache as kernel_cache
from harness.kernel.types import Choice, Kernel
from harness.kernel.version import KernelVersion
from harness.util import cache
from tests.unit.kernel.kernel_fakes import CONFIG, EM_AARCH64, bzimage, elf, gzipped, kernel_image

VERSION = KernelVersion(6, 1, 7)
CHOICE = Choice("6.1", VERSION, "test", "key=1", "cloud")


def add(
    image: bytes = b"", config: str = CONFIG, modules: bytes = b"", name: str = "vmlinuz", again: bool = False
) -> bool:
    with kernel_cache.new_entry(CHOICE.provider, CHOICE.key, again=again) as made:
        if made is None:
            return False
        (made / name).write_bytes(image or kernel_image())
        if config:
            (made / "config").write_text(config)
        if modules:
            folder = made / "lib/modules/6.1.7-fake-amd64/kernel"
            folder.mkdir(parents=True)
            (folder / "m.ko").write_bytes(modules)
        kernel_cache.seal(made, CHOICE, origin="a test")
    return True


def load(said: list[str] | None = None) -> Kernel | None:
    return kernel_cache.load(CHOICE, progress=said.append if said is not None else print)


def leftovers() -> list[str]:
    return [path.name for path in (kernel_cache.folder() / "store").glob("*")]


def test_what_is_put_in_comes_out() -> None:
    assert load() is None
    add(modules=b"module")
    kernel = load()
    assert kernel is not None
    assert (kernel.label, kernel.version, kernel.release) == ("6.1", VERSION, "6.1.7-fake-amd64")
    assert kernel.pvh
    assert kernel.vmlinux is not None
    assert kernel.vmlinux.read_bytes() == elf()
    assert kernel.boot_image == kernel.vmlinux
    assert kernel.digest == cache.digest_file(kernel.vmlinux)
    assert kernel.modules is not None
    assert (kernel.modules / "kernel/m.ko").read_bytes() == b"module"


def test_without_the_pvh_note_the_bzimage_is_booted() -> None:
    add(bzimage(gzipped(elf(pvh=False))))
    kernel = load()
    assert kernel is not None
    assert kernel.boot_image == kernel.bzimage
    assert kernel.bzimage is not None
    assert kernel.digest == cache.digest_file(kernel.bzimage)


def test_a_vmlinux_that_qemu_cannot_boot_is_refused() -> None:
    with pytest.raises(KernelFileError, match="QEMU cannot boot the kernel image of a test: it has no PVH entry"):
        add(elf(pvh=False), name="vmlinux")
    assert leftovers() == []


def test_with_kasan_the_bzimage_is_booted_too() -> None:
    add(config=CONFIG + "CONFIG_KASAN=y\n")
    kernel = load()
    assert kernel is not None
    assert kernel.boot_image == kernel.bzimage


@pytest.mark.parametrize(
    ("image", "config", "message"),
    [
        (kernel_image()[:2700], CONFIG, "cut short"),
        (bzimage(gzipped(elf(machine=EM_AARCH64))), CONFIG, "AArch64"),
        (kernel_image(), "CONFIG_BPF=y\n# CONFIG_BPF_SYSCALL is not set\n", "without the bpf"),
        (b"no kernel", CONFIG, "not a kernel image"),
    ],
)
def test_an_unusable_kernel_leaves_nothing_behind(image: bytes, config: str, message: str) -> None:
    with pytest.raises(KernelFileError, match=message):
        add(image, config)
    assert leftovers() == []
    assert load() is None


def test_a_kernel_whose_own_configuration_lacks_bpf_is_refused() -> None:
    embedded = b"IKCFG_ST" + gzipped(b"CONFIG_NET=y\n")
    with pytest.raises(KernelFileError, match="without the bpf"):
        add(elf(content=embedded), config="", name="vmlinux")
    assert leftovers() == []


def vmlinuz() -> Path:
    return kernel_cache.entry_folder(CHOICE.provider, CHOICE.key) / "vmlinuz"


def test_a_touched_file_with_the_same_content_is_fine() -> None:
    add()
    os.utime(vmlinuz(), (1, 1))
    assert load() is not None


@pytest.mark.parametrize("damage", ["bytes", "length", "missing", "record"])
def test_a_damaged_entry_is_removed_with_a_word_and_can_be_made_again(damage: str) -> None:
    add()
    path = vmlinuz()
    if damage == "bytes":
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(data)
    elif damage == "length":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "missing":
        path.unlink()
    else:
        (path.parent / kernel_cache.RECORD).write_text('{"format"')
    said: list[str] = []
    assert load(said) is None
    assert len(said) == 1
    assert "making it again" in said[0]
    assert leftovers() == []
    add()
    assert load() is not None


def test_verification_reads_everything_and_ignores_what_depmod_writes() -> None:
    add(modules=b"module")
    [entry] = kernel_cache.entries()
    modules = entry.path / "lib/modules/6.1.7-fake-amd64"
    (modules / "modules.dep").write_text("")
    assert entry.damage(thorough=True) == ""
    (modules / "kernel/m.ko").write_bytes(b"modulE")
    assert entry.damage() == ""
    assert "modules differ" in entry.damage(thorough=True)


def test_bytes_changed_behind_the_clocks_back_are_found_by_verification() -> None:
    add()
    stat = vmlinuz().stat()
    data = bytearray(vmlinuz().read_bytes())
    data[100] ^= 1
    vmlinuz().write_bytes(data)
    os.utime(vmlinuz(), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    [entry] = kernel_cache.entries()
    assert entry.damage() == ""
    assert "sha256 of vmlinuz" in entry.damage(thorough=True)


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    image = kernel_image()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CacheError, match="no space left") as caught:
        add(image)
    assert "prune" in caught.value.hint
    assert leftovers() == []


PROGRAM = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from tests.unit.kernel.test_kernel_cache import CHOICE, add
from harness.kernel import cache as kernel_cache
if sys.argv[2] == "die":
    with kernel_cache.new_entry(CHOICE.provider, CHOICE.key) as made:
        (made / "vmlinuz").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
else:
    print(add())
"""


def program(what: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_kill_in_the_middle_leaves_no_entry_and_the_next_one_sweeps_up() -> None:
    killed = program("die")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert load() is None
    assert len(leftovers()) == 2  # half an entry, and the lock file of its maker
    add()
    assert load() is not None
    assert leftovers() == ["test-key=1"]


def test_processes_side_by_side_make_an_entry_once() -> None:
    both = [program("add") for _ in range(3)]
    results = [one.communicate() for one in both]
    assert sorted(out for out, _ in results) == ["False\n", "False\n", "True\n"], results
    assert load() is not None


def test_the_second_maker_finds_the_entry() -> None:
    add()
    with kernel_cache.new_entry(CHOICE.provider, CHOICE.key) as made:
        assert made is None


def test_making_an_entry_again_keeps_the_old_one_until_the_new_one_is_whole() -> None:
    add()
    with pytest.raises(KernelFileError, match="not a kernel image"):
        add(b"bad", again=True)
    assert load() is not None
    add(bzimage(gzipped(elf(pvh=False))), again=True)
    kernel = load()
    assert kernel is not None
    assert not kernel.pvh


def test_discarding_a_missing_entry_is_not_an_error(tmp_path: Path) -> None:
    kernel_cache.discard(kernel_cache.entry_folder("test", "nothing"))


def test_keys_become_file_names() -> None:
    assert kernel_cache.entry_folder("p", "a/b c=1~2+3").name == "p-a_b_c=1~2+3"
