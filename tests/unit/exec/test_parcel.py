"""What goes along with a program to the guest, and what is refused before anything boots."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.exec import parcel as parcels
from harness.exec.parcel import Carried, Parcel, pack, parse_push
from harness.image.rootfs import Contents, Rootfs
from harness.util import architecture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    (made / "testdata").mkdir(parents=True)
    (made / "testdata/d.txt").write_text("data")
    (made / "link").symlink_to("/somewhere/else")
    (made / ".git").mkdir()
    (made / ".git/config").write_text("")
    return made


def script(folder: Path, first: str, name: str = "s") -> Path:
    path = folder / name
    path.write_text(f"{first}\n")
    path.chmod(0o755)
    return path


def packed(folder: Path, *words: str, pushes: tuple[Carried, ...] = (), limit: int = 1 << 20) -> Parcel:
    return pack(words, pushes, cwd=folder, folder_limit=limit, memory=256)


def targets(parcel: Parcel) -> set[str]:
    return {one.target for one in parcel.entries}


def test_the_working_folder_goes_along_with_its_links_and_without_git(folder: Path) -> None:
    script(folder, "#!/bin/sh")
    found = packed(folder, "./s", "a b", "")
    assert found.argv == (f"{folder}/s", "a b", "")
    assert found.cwd == str(folder)
    assert {f"{folder}/{name}" for name in ("testdata/d.txt", "link", "s")} < targets(found)
    assert not any(".git" in one for one in targets(found))
    assert "/bin/sh" in targets(found)
    assert any(one.is_library and "libc" in one.target for one in found.entries)
    assert found.notes == ()


def test_files_must_fit_beside_the_guests_own_memory_of_which_some_architectures_have_more(folder: Path) -> None:
    script(folder, "#!/usr/bin/python3")
    with (folder / "large").open("wb") as file:
        file.truncate(200 << 20)  # the content is nothing but holes
    with pytest.raises(UsageError, match="200 MiB, too many for a guest of 256 MiB") as raised:
        packed(folder, "./s", limit=1 << 30)
    assert raised.value.hint == "--memory 360"
    ppc64el = architecture.require("ppc64el")
    pack(["./s"], (), cwd=folder, folder_limit=1 << 30, memory=256, wanted=ppc64el)


def test_of_a_large_folder_only_testdata_goes_along(folder: Path) -> None:
    (folder / "large").write_bytes(bytes(3000))
    script(folder, "#!/bin/sh")
    found = packed(folder, "./s", limit=2000)
    assert f"{folder}/testdata/d.txt" in targets(found)
    assert f"{folder}/large" not in targets(found)
    assert "its folder testdata goes along" in found.notes[0]


def test_a_folder_of_too_many_files_does_not_go_along(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcels, "_MOST_ENTRIES", 1)
    script(folder, "#!/bin/sh")
    assert "nothing of it goes along" in packed(folder, "./s").notes[0]


def test_a_limit_of_zero_leaves_the_folder_behind(folder: Path) -> None:
    script(folder, "#!/bin/sh")
    found = packed(folder, "./s", limit=0)
    assert f"{folder}/s" in targets(found)
    assert f"{folder}/testdata/d.txt" not in targets(found)
    assert found.notes == ()


def test_a_script_in_python_uses_the_guests_python(folder: Path) -> None:
    script(folder, f"#!{sys.executable}")
    found = packed(folder, "./s")
    assert found.interpreters == (sys.executable,)
    assert sys.executable not in targets(found)


def test_env_and_what_it_starts_go_along(folder: Path) -> None:
    script(folder, "#!/usr/bin/env bash")
    assert {"/usr/bin/env", "/usr/bin/bash"} <= targets(packed(folder, "./s")) | {"/usr/bin/bash"}


def test_the_guests_own_python_and_pushed_programs_are_not_looked_for(folder: Path) -> None:
    assert packed(folder, "python3", "-V").argv == ("python3", "-V")
    pushed = Carried(script(folder, "#!/bin/sh", "tool"), "/opt/tool")
    assert packed(folder, "/opt/tool", pushes=(pushed,)).argv == ("/opt/tool",)


@pytest.mark.parametrize(
    ("first", "words", "message"),
    [
        ("", ["./none"], "there is no program ./none"),
        ("", ["no-such-program"], "there is no program no-such-program on this machine's PATH"),
        ("plain text", ["./s"], "neither a compiled program"),
        ("#!", ["./s"], "names no interpreter"),
        ("#!/no/such", ["./s"], "the interpreter /no/such of"),
        ("#!/usr/bin/env no-such-program", ["./s"], "wants no-such-program"),
        ("\x7fELF", ["./s"], "damaged program"),
    ],
)
def test_what_cannot_run_is_refused(folder: Path, first: str, words: list[str], message: str) -> None:
    script(folder, first)
    with pytest.raises(UsageError, match=message):
        packed(folder, *words)


def test_a_file_that_is_not_executable_is_refused(folder: Path) -> None:
    script(folder, "#!/bin/sh").chmod(0o644)
    with pytest.raises(UsageError, match=r"not executable[\s\S]*chmod \+x"):
        packed(folder, "./s")


def test_programs_of_another_machine_and_object_files_are_refused(folder: Path) -> None:
    program = bytearray(Path("/bin/true").read_bytes())
    for offset, value, message in ((18, 22, "is a program for s390x"), (16, 1, "not a program but an object file")):
        changed = bytearray(program)
        changed[offset] = value
        (folder / "s").write_bytes(changed)
        (folder / "s").chmod(0o755)
        with pytest.raises(UsageError, match=message):
            packed(folder, "./s")


def test_a_program_must_be_of_the_guests_architecture(folder: Path) -> None:
    arm64 = architecture.require("arm64")
    with pytest.raises(
        UsageError, match=rf"is a program for {architecture.own().title}, and the guest is arm64"
    ) as found:
        pack(["/bin/true"], (), cwd=folder, memory=256, wanted=arm64)
    assert "aarch64-linux-gnu-gcc" in found.value.hint
    changed = bytearray(Path("/bin/true").read_bytes())
    changed[18] = arm64.elf
    (folder / "s").write_bytes(changed)
    (folder / "s").chmod(0o755)
    assert pack(["./s"], (), cwd=folder, memory=256, wanted=arm64).argv == (f"{folder}/s",)


def test_guests_of_another_architecture_have_busybox_and_python_and_no_program_of_this_machine(
    folder: Path, tmp_path: Path
) -> None:
    arm64 = architecture.require("arm64")
    userland = tmp_path / "userland"
    (userland / "usr/bin").mkdir(parents=True)
    (userland / "usr/bin/busybox").write_bytes(b"\x7fELF\0[\0[[\0env\0ls\0sh\0\0")
    script(folder, "#!/bin/sh", "t")
    script(folder, "#!/usr/bin/env bash", "b")
    script(folder, "#!/opt/own/bin/python3", "p")

    def found(word: str, *, known: bool = True) -> Parcel:
        return pack([word], (), cwd=folder, memory=256, wanted=arm64, userland=userland if known else None)

    assert found("ls").argv == ("ls",)
    assert not {"/bin/sh", "/usr/bin/env"} & targets(found("./t"))
    assert found("./p").interpreters == ("/opt/own/bin/python3",)
    with pytest.raises(UsageError, match="wants bash, which guests of arm64 have not"):
        found("./b")
    with pytest.raises(UsageError, match="is a program for"):
        found("make")
    # Before its programs are fetched, nobody knows what the guest has.
    assert (found("make", known=False).argv, found("./b", known=False).argv) == (("make",), (f"{folder}/b",))


@pytest.fixture
def rootfs(tmp_path: Path) -> Rootfs:
    image = tmp_path / "r.ext4"
    contents = Contents(
        [
            "/usr/bin/dash",
            "/usr/bin/env",
            "/usr/bin/arm",
            "/usr/bin/old",
            "/usr/bin/bare",
            "/usr/lib64/ld.so",
            "/opt/tool",
        ],
        {"/bin": "usr/bin", "/lib64": "/usr/lib64", "/usr/bin/sh": "dash", "/usr/bin/loop": "loop"},
        {
            "/usr/bin/dash": (62, "/lib64/ld.so"),
            "/opt/tool": (62, ""),
            "/usr/bin/arm": (183, "/lib64/ld.so"),
            "/usr/bin/old": (3, ""),
            "/usr/bin/bare": (62, "/lib/ld.so"),
        },
    )
    image.with_suffix(".json").write_text(json.dumps({"contents": asdict(contents)}))
    return Rootfs(image, "")


X86_64 = architecture.require("x86-64")


@pytest.mark.parametrize("word", ["sh", "/bin/sh", "/usr/bin/sh", "/opt/tool", "old"])
def test_a_program_of_the_root_file_system_is_not_sent(folder: Path, rootfs: Rootfs, word: str) -> None:
    found = pack([word], (), cwd=folder, memory=256, wanted=X86_64, rootfs=rootfs)
    assert found.argv == (word,)
    assert not any(one.is_library for one in found.entries)


def test_a_dynamic_loader_may_go_along(folder: Path, rootfs: Rootfs) -> None:
    loader = Carried(script(folder, ""), "/lib/ld.so")
    assert pack(["bare"], (loader,), cwd=folder, memory=256, wanted=X86_64, rootfs=rootfs).argv == ("bare",)


def test_a_script_uses_the_root_file_systems_interpreter(folder: Path, rootfs: Rootfs) -> None:
    script(folder, "#!/usr/bin/env sh")
    found = pack(["./s"], (), cwd=folder, memory=256, wanted=X86_64, rootfs=rootfs)
    assert "/usr/bin/env" not in targets(found)
    assert f"{folder}/s" in targets(found)


@pytest.mark.parametrize(
    ("first", "word", "said"),
    [
        ("", "/bin/true", "the root file system has no program /bin/true"),
        ("#!/usr/bin/python3", "./s", "wants /usr/bin/python3, which the root file system has not"),
        ("#!/usr/bin/env perl", "./s", "wants perl, which the root file system has not"),
        ("", "/usr/bin/loop", "the root file system has no program /usr/bin/loop"),
        ("", "arm", "the root file system's /usr/bin/arm is a program for arm64, and the guest is x86-64"),
        ("", "bare", "the root file system's /usr/bin/bare wants /lib/ld.so, which the root file system has not"),
        ("#!/bin/bare", "./s", "/usr/bin/bare wants /lib/ld.so"),
    ],
)
def test_what_the_root_file_system_lacks_is_named(
    folder: Path, rootfs: Rootfs, first: str, word: str, said: str
) -> None:
    script(folder, first)
    with pytest.raises(UsageError) as found:
        pack([word], (), cwd=folder, memory=256, wanted=X86_64, rootfs=rootfs)
    assert said in found.value.what


def test_what_does_not_fit_names_the_memory_that_it_needs(folder: Path) -> None:
    (folder / "large").write_bytes(b"")
    with (folder / "large").open("r+b") as file:
        file.truncate(200 << 20)
    script(folder, "#!/bin/sh")
    with pytest.raises(UsageError, match=r"--memory 3\d\d"):
        packed(folder, "./s", limit=1 << 30)


@pytest.mark.parametrize(("text", "target"), [("{f}", "{f}"), ("{f}:/opt/x", "/opt/x"), ("{f}:/opt//x/", "/opt/x")])
def test_push(folder: Path, text: str, target: str) -> None:
    file = str(folder / "testdata")
    assert parse_push(text.format(f=file)) == Carried(Path(file), target.format(f=file))


@pytest.mark.parametrize("text", ["/no/such", "{f}:opt/x", "{f}:/opt/../x", "{f}:/", "{f}:."])
def test_push_of_nothing_or_to_no_place(folder: Path, text: str) -> None:
    with pytest.raises(UsageError, match="--push"):
        parse_push(text.format(f=folder))
