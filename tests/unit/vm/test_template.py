"""When a saved machine is used as it is, read in full, or made anew; no machine is booted."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.errors import TemplateError
from harness.util import cache
from harness.vm import template
from harness.vm.spec import MachineSpec
from tests.unit.vm.specs import spec_of

SPEC = spec_of("/k", "/i")


def test_a_machine_with_another_kernel_command_line_is_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    qemu = tmp_path / "qemu"
    qemu.touch()
    monkeypatch.setattr(template, "find_qemu", lambda _architecture: qemu)
    before = template.key_of(SPEC)
    assert template.key_of(SPEC) == before
    monkeypatch.setattr(template, "kernel_words", lambda _spec: ("nmi_watchdog=0",))
    assert template.key_of(SPEC) != before


class Saved:
    """A saved machine, and how often another one is made in its place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made = 0
        self.said: list[str] = []
        self.write("good")

    def write(self, content: str) -> template.Template:
        with cache.new_folder(self.folder) as temporary:
            for name in (template.RAM, template.STATE):
                (temporary / name).write_text(content)
            record = {
                "about": {},
                "boot_log": [],
                "argv": [content],
                "whole_stream": False,
                "private_rom": False,
                "seconds": [1.0, 1.0],
                "checked": 0.0,
                "boot": "",
                "files": {name: template._facts(temporary / name) for name in (template.RAM, template.STATE)},
            }
            cache.write_record(temporary / template.RECORD, record)
        found = template._read(self.folder)
        assert found is not None
        return found

    def make(self, folder: Path, spec: MachineSpec, *, boot_timeout: float) -> template.Template:
        assert (folder, spec, boot_timeout) == (self.folder, SPEC, 1.0)
        self.made += 1
        return self.write(f"made {self.made}")

    def find(
        self, *, doubted: bool = False, tried: Callable[[template.Template], None] | None = None
    ) -> template.Template:
        return template.find_or_make(SPEC, boot_timeout=1.0, progress=self.said.append, doubted=doubted, tried=tried)

    def record(self) -> dict[str, object]:
        content: dict[str, object] = json.loads((self.folder / template.RECORD).read_text())
        return content


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Saved:
    machine = Saved(tmp_path / "templates" / "key")
    monkeypatch.setattr(template, "key_of", lambda _spec: "key")
    monkeypatch.setattr(template, "folder_of", lambda _key: machine.folder)
    monkeypatch.setattr(template, "make", machine.make)
    return machine


def test_a_healthy_machine_survives_every_doubt(saved: Saved) -> None:
    with ThreadPoolExecutor(4) as workers:
        found = list(workers.map(lambda _: saved.find(doubted=True), range(8)))
    assert {tuple(one.argv) for one in found} == {("good",)}
    assert saved.made == 0


def test_processes_that_doubt_a_damaged_machine_make_one_anew_and_keep_it(saved: Saved) -> None:
    (saved.folder / template.STATE).write_text("flip")
    both = threading.Barrier(4)

    def doubt() -> template.Template:
        both.wait()
        return saved.find(doubted=True)

    with ThreadPoolExecutor(4) as workers:
        found = [done.result() for done in [workers.submit(doubt) for _ in range(4)]]
    assert {tuple(one.argv) for one in found} == {("made 1",)}
    assert saved.said == ["the saved machine of 6.1 is damaged; booting it anew"]


def test_a_new_machine_is_tried_once_and_removed_when_it_is_of_no_use(saved: Saved) -> None:
    tried: list[str] = []

    def sleeps_for_ever(new: template.Template) -> None:
        tried.append(new.argv[0])
        raise TemplateError("a clone sleeps for ever")

    saved.find(doubted=True, tried=sleeps_for_ever)
    assert tried == []
    (saved.folder / template.STATE).write_text("flip")
    with pytest.raises(TemplateError, match="sleeps for ever"):
        saved.find(doubted=True, tried=sleeps_for_ever)
    assert not saved.folder.exists()
    saved.find(doubted=True, tried=lambda new: tried.append(new.argv[0]))
    assert tried == ["made 1", "made 2"]


def test_no_lock_file_stays(saved: Saved) -> None:
    old = saved.folder.with_name("gone.lock")
    old.touch()
    os.utime(old, (0, 0))
    (saved.folder / template.STATE).write_text("flip")
    saved.find(doubted=True)
    assert list(saved.folder.parent.iterdir()) == [saved.folder]


@pytest.fixture
def read_only(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    assert saved.folder.exists()
    monkeypatch.setattr(cache, "is_writable", lambda _path: False)

    def refused(*_: object, **__: object) -> None:
        pytest.fail("something is written")

    monkeypatch.setattr(cache, "write_record", refused)
    monkeypatch.setattr(cache, "locked", refused)


@pytest.mark.usefixtures("read_only")
@pytest.mark.parametrize("doubted", [False, True])
def test_a_cache_that_cannot_be_written_is_used(saved: Saved, monkeypatch: pytest.MonkeyPatch, doubted: bool) -> None:
    assert saved.find(doubted=doubted).argv == ["good"]
    # As after the host's next boot: the files are read in full, and that is not written down.
    monkeypatch.setattr(template, "_boot_id", lambda: "another")
    before = saved.record()
    assert saved.find(doubted=doubted).argv == ["good"]
    assert saved.record() == before


@pytest.mark.usefixtures("read_only")
def test_a_damaged_machine_in_a_cache_that_cannot_be_written_is_not_used(saved: Saved) -> None:
    (saved.folder / template.STATE).write_text("flip")
    with pytest.raises(TemplateError, match=r"no machine of 6.1 is saved in .*templates, which cannot be written"):
        saved.find()
    assert saved.made == 0
