"""Building: fragments, compilers, and a whole build of a tree whose Makefile only pretends."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import (
    BuildError,
    CacheError,
    HarnessError,
    InfrastructureError,
    KernelFileError,
    MirrorError,
    SelectorError,
    ToolMissing,
)
from harness.kernel import acquire, resolve
from harness.kernel import cache as kernel_cache
from harness.kernel.build import compilers, kbuild, kconfig, source
from harness.kernel.build import kept_tree as kept_tree_module
from harness.kernel.build.kconfig import Gaps, Setting
from harness.kernel.catalog import Catalog
from harness.kernel.files.headers import headers_of
from harness.kernel.providers import local
from harness.kernel.providers.debian import DebianProvider
from harness.kernel.version import KernelVersion
from harness.util import architecture
from harness.util.data import data_folder, read_toml
from tests.needs import needs_features, needs_program
from tests.unit.kernel.kernel_fakes import Server, Signer, arm64_image, bzimage, deb, elf, gzipped, tarball

AMD64 = architecture.require("amd64")

# configuration


def test_fragment_lines() -> None:
    text = """
# A comment.
CONFIG_A=y
CONFIG_B="text"     # since 5.4 with pahole
# CONFIG_C is not set
CONFIG_D=1          # required
"""
    assert kconfig.parse_fragment(text, "x") == [
        Setting("A", "y"),
        Setting("B", '"text"', since=KernelVersion(5, 4), tool="pahole"),
        Setting("C", "n"),
        Setting("D", "1", required=True),
    ]


@pytest.mark.parametrize(
    "line", ["CONFIG_A", "CONFIG_A=y # maybe", "CONFIG_A=y # since x", "A=y", "# CONFIG_A is unset"]
)
def test_malformed_fragment_lines_are_named(line: str) -> None:
    with pytest.raises(InfrastructureError, match=r"line 2 of the configuration fragment x\.config"):
        kconfig.parse_fragment(f"\n{line}\n", "x.config")


def test_every_fragment_and_table_that_is_shipped_is_sound() -> None:
    for flavour in kbuild.FLAVOURS:
        settings = kbuild.fragment_settings(flavour)
        assert any(setting.symbol == "BPF_SYSCALL" and setting.required for setting in settings)
    assert set(local.LocalProvider.flavours) == set(kbuild.FLAVOURS)
    used = {f"{name}.config" for names in kbuild.FLAVOURS.values() for name in names}
    used |= {f"{name}.config" for name in architecture.known()}
    assert {path.name for path in (data_folder("kernels") / "configs").iterdir()} == used
    rows = read_toml("kernels", "compilers.toml")["row"]
    # Without gaps: each row begins where the one before ends.
    assert [row["from"] for row in rows[1:]] == [row["until"] for row in rows[:-1]]
    assert rows[0]["from"] == read_toml("kernels", "series.toml")["oldest"]


def test_the_debug_flavour_has_the_checkers_that_the_project_promises() -> None:
    wanted = {
        "KASAN",
        "DEBUG_KMEMLEAK",
        "PROVE_LOCKING",
        "PROVE_RCU",
        "DEBUG_ATOMIC_SLEEP",
        "FAILSLAB",
        "FAIL_PAGE_ALLOC",
    }
    settings = kconfig.applicable(kbuild.fragment_settings("debug"), KernelVersion(6, 1), lambda tool: True)
    assert wanted | {"FAULT_INJECTION", "SLUB_DEBUG"} <= {one.symbol for one in settings if one.value == "y"}


def test_only_what_applies_is_asked_and_the_last_word_counts() -> None:
    settings = [
        Setting("A", "y"),
        Setting("B", "y", since=KernelVersion(6, 0)),
        Setting("C", "y", tool="pahole"),
        Setting("A", "n"),
    ]
    assert kconfig.applicable(settings, KernelVersion(5, 19, 9), lambda tool: True) == [settings[3], settings[2]]
    assert kconfig.applicable(settings, KernelVersion(6, 0), lambda tool: False) == [settings[3], settings[1]]


def test_gaps_distinguish_required_dropped_and_unknown_settings() -> None:
    config = kconfig.parse_config("CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_E=2\n")
    asked = [
        Setting("A", "y"),
        Setting("B", "y"),
        Setting("C", "y"),
        Setting("D", "y", required=True),
        Setting("E", "1"),
    ]
    asked += [Setting("F", "n"), Setting("A", "y", required=True)]
    known = kconfig.symbols_of(["config A\n\tbool\nmenuconfig B\n", "  config E\n"])
    assert kconfig.gaps(asked, config, known) == Gaps(required=("D",), dropped=("B", "E"), unknown=("C",))


# compilers

OLD = {"make": ["LD=x"], "segment_alignment": 4096}
NEW = {"make": [], "segment_alignment": 4096}
TABLE = [
    {"from": "4.12", "until": "6.2", "newest_gcc": 12, "amd64": OLD, "reason": "old"},
    {"from": "6.2", "until": "9.0", "newest_gcc": 0, "amd64": NEW, "reason": "new"},
]


@pytest.mark.parametrize(
    ("version", "cc", "there", "chosen", "doubt"),
    [
        ("5.4", "", {"gcc": 12}, "gcc", False),
        ("5.4", "", {"gcc": 14, "gcc-12": 12, "gcc-10": 10}, "gcc-12", False),
        ("5.4", "", {"gcc": 14}, "gcc", True),
        ("5.4", "gcc-14", {"gcc": 12, "gcc-14": 14}, "gcc-14", True),
        ("5.4", "ccache gcc-12", {"gcc-12": 12}, "ccache gcc-12", False),
        ("5.4", "clang", {"clang": 0}, "clang", True),
        ("6.12", "", {"gcc": 14}, "gcc", False),
        ("6.12", "clang", {"clang": 0}, "clang", False),
    ],
)
def test_the_compiler_comes_from_the_table(
    version: str, cc: str, there: dict[str, int], chosen: str, doubt: bool
) -> None:
    compiler = compilers.choose_compiler(TABLE, KernelVersion.parse(version), cc, there.get, AMD64)
    assert compiler.cc == chosen
    assert bool(compiler.doubt) is doubt
    assert compiler.make == (("LD=x",) if version == "5.4" else ())


def test_no_compiler_and_no_row() -> None:
    with pytest.raises(BuildError, match="gcc is not installed"):
        compilers.choose_compiler(TABLE, KernelVersion(5, 4), "", {"gcc-13": 13}.get, AMD64)
    with pytest.raises(SelectorError, match=r"no compiler is known for 4\.4"):
        compilers.choose_compiler(TABLE, KernelVersion(4, 4), "", {"gcc": 12}.get, AMD64)


def test_a_foreign_kernel_has_a_cross_compiler_and_none_of_the_words_for_this_machine() -> None:
    arm64 = architecture.require("arm64")
    there = {"gcc": 12, "aarch64-linux-gnu-gcc": 14, "aarch64-linux-gnu-gcc-12": 12}
    compiler = compilers.choose_compiler(TABLE, KernelVersion(5, 4), "", there.get, arm64)
    assert (compiler.cc, compiler.make, compiler.alignment) == ("aarch64-linux-gnu-gcc-12", (), 0)
    with pytest.raises(BuildError, match="aarch64-linux-gnu-gcc is not installed") as caught:
        compilers.choose_compiler(TABLE, KernelVersion(6, 12), "", {"gcc": 12}.get, arm64)
    assert "gcc-aarch64-linux-gnu" in caught.value.hint


# whole builds

MAKEFILE = """\
VERSION = 6
PATCHLEVEL = 1
SUBLEVEL = 7
EXTRAVERSION =
tinyconfig:
\tcp tiny $(O)/.config
olddefconfig:
\tgrep -v -e DROPPED -e RSEQ $(O)/.config > $(O)/.new && mv $(O)/.new $(O)/.config
Image:
\ttest $(ARCH) = arm64 && test $(CROSS_COMPILE)gcc = $(CC)
\tmkdir -p $(O)/arch/arm64/boot && cp built.image $(O)/arch/arm64/boot/Image && cp built.vmlinux $(O)/vmlinux
bzImage:
\tmkdir -p $(O)/arch/x86/boot && cp built.bzimage $(O)/arch/x86/boot/bzImage && cp built.vmlinux $(O)/vmlinux
"""


def kernel_tree(folder: Path, *, makefile: str = MAKEFILE, align: int = 0x200000) -> Path:
    # The tree pretends, but nothing is built before the real tools have been found.
    needs_features("build", "build-bcc", programs_only=True)
    for name in ("scripts", "kernel/bpf"):
        (folder / name).mkdir(parents=True)
    (folder / "Makefile").write_text(makefile)
    (folder / "scripts/Makefile.lib").touch()
    (folder / "Kconfig").write_text("config BPF_SYSCALL\nconfig DROPPED\n")
    (folder / "tiny").write_text("")
    (folder / "kernel/bpf/Makefile").write_text("obj-y += x.o\n")
    (folder / "kernel/bpf/x.c").write_text("int x;\n")
    vmlinux = elf(align=align, release="6.1.7-minimal")
    (folder / "built.vmlinux").write_bytes(vmlinux)
    (folder / "built.image").write_bytes(arm64_image("6.1.7-minimal"))
    (folder / "built.bzimage").write_bytes(bzimage(gzipped(vmlinux), release="6.1.7-minimal"))
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that builds."""
    return kernel_tree(tmp_path / "linux")


def build(tree: Path, flavour: str = "minimal", said: list[str] | None = None, **options: bool) -> kbuild.Built:
    lines: list[str] = said if said is not None else []
    return kbuild.build(
        tree, flavour, origin="a test", jobs=1, progress=lines.append, again=options.get("again", False)
    )


def stored() -> list[str]:
    return sorted(path.name for path in (kernel_cache.folder() / "store").glob("*"))


def test_a_build_lands_in_the_cache_and_is_found_by_version(tree: Path) -> None:
    before = sorted(path for path in tree.rglob("*"))
    built = build(tree)
    assert built.kernel.release == "6.1.7-minimal"
    assert built.gaps == Gaps((), (), ("RSEQ",))
    assert sorted(path for path in tree.rglob("*")) == before
    [choice] = resolve(["6.1.7:minimal"])
    assert acquire(choice).digest == built.kernel.digest
    assert [one.key for one in resolve(["6.1", "local:oldest", "local:all", "local:>=6.0"])] == ["6.1.7-minimal"]
    assert not (kernel_cache.folder() / "build/6.1.7-minimal").exists()


def test_a_foreign_kernel_is_built_beside_this_machines_own(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aarch64-linux-gnu-gcc").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(kbuild, "cached", lambda cc: cc)
    monkeypatch.setattr(kbuild, "gcc_major", lambda name: 12)
    own = build(tree)
    foreign = kbuild.build(tree, "minimal", origin="a test", jobs=1, wanted="arm64", progress=print)
    assert (own.kernel.architecture, foreign.kernel.architecture) == ("amd64", "arm64")
    assert [one.key for one in resolve(["6.1.7:minimal", "6.1.7:arm64:minimal"])] == [
        "6.1.7-minimal",
        "6.1.7-minimal-arm64",
    ]


def test_a_finished_build_is_not_repeated_without_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One as new as this machine's may be is warned of, at each build.
    monkeypatch.setattr(kbuild, "gcc_major", lambda name: 12)
    build(tree)
    said: list[str] = []
    assert build(tree, said=said).gaps.unknown == build(tree).gaps.unknown
    assert said == []
    assert build(tree, said=said, again=True)
    assert said


@pytest.mark.parametrize("flavour", ["minimal", "coverage"])
def test_a_commit_reuses_the_previous_build_and_is_not_a_release(tree: Path, flavour: str) -> None:
    output = kernel_cache.folder() / "build" / f"commits-{flavour}" / "out"
    for commit in ("1" * 40, "2" * 40):
        built = kbuild.build(tree, flavour, origin="a test", revision=commit, progress=print)
        choice = kbuild.choice_of(built.kernel.version, flavour, commit)
        assert choice.key == f"6.1.7-g{commit[:12]}-{flavour}"
        assert acquire(choice).digest == built.kernel.digest
        assert output.is_dir()
        (output / "compiled").touch()
    assert (output / "compiled").exists()
    with pytest.raises(SelectorError):
        resolve([f"6.1.7:{flavour}"])
    assert [offer.key for offer in kernel_cache.offers("local")] == []


def test_the_owners_compiler_in_the_makefile_is_not_used(tmp_path: Path) -> None:
    owners = MAKEFILE.replace("bzImage:\n", "CROSS_COMPILE = /nowhere/arm-\nbzImage:\n\t$(CROSS_COMPILE)true\n")
    assert build(kernel_tree(tmp_path / "linux", makefile=owners)).kernel.release == "6.1.7-minimal"


def test_dropped_settings_are_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fragments = kbuild.fragment_settings("minimal")
    monkeypatch.setattr(kbuild, "fragment_settings", lambda *_: [*fragments, Setting("DROPPED", "y")])
    assert build(tree).gaps.dropped == ("DROPPED",)


def test_a_configuration_without_required_settings_fails_the_build(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fragments = kbuild.fragment_settings("minimal")
    monkeypatch.setattr(kbuild, "fragment_settings", lambda *_: [*fragments, Setting("DROPPED", "y", required=True)])
    with pytest.raises(BuildError, match="lacks CONFIG_DROPPED"):
        build(tree)
    assert stored() == []


def test_a_compile_error_is_shown_and_the_log_is_kept(tmp_path: Path) -> None:
    broken = MAKEFILE.replace("\tmkdir -p", "\techo 'x.c:1: error: no such thing' >&2; exit 1; mkdir -p")
    with pytest.raises(BuildError, match="make bzImage failed") as caught:
        build(kernel_tree(tmp_path / "linux", makefile=broken))
    assert "x.c:1: error: no such thing" in caught.value.detail
    assert "build.log" in caught.value.hint
    assert (kernel_cache.folder() / "build/6.1.7-minimal/build.log").is_file()
    assert stored() == []


def test_a_failed_rebuild_keeps_the_kernel_that_was_there(tree: Path) -> None:
    build(tree)
    (tree / "built.bzimage").write_bytes(b"nonsense")
    with pytest.raises(KernelFileError):
        build(tree, again=True)
    assert acquire(resolve(["6.1.7:minimal"])[0]).release == "6.1.7-minimal"


def test_a_vmlinux_that_would_hang_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="aligned to 0x1000"):
        build(kernel_tree(tmp_path / "linux", align=0x1000))
    assert stored() == []


def test_a_build_that_leaves_no_image_is_an_error(tmp_path: Path) -> None:
    lazy = MAKEFILE.split("bzImage:")[0] + "bzImage:\n\ttrue\n"
    with pytest.raises(BuildError, match="the build made no"):
        build(kernel_tree(tmp_path / "linux", makefile=lazy))


def test_coverage_counts_in_the_bpf_core_alone_and_keeps_what_gcov_needs(tree: Path) -> None:
    makefile = (tree / "Makefile").read_text()
    (tree / "Makefile").write_text(
        f"{makefile}\tmkdir -p $(O)/kernel/bpf && cp kernel/bpf/Makefile $(O)/kernel/bpf/x.gcno\n"
    )
    build(tree, "coverage")
    kept = kernel_cache.entry_folder("local", "6.1.7-coverage") / "coverage/kernel/bpf"
    assert (kept / "x.gcno").read_text() == "GCOV_PROFILE := y\nobj-y += x.o\n"
    assert (kept / "x.c").is_file()
    assert (tree / "kernel/bpf/Makefile").read_text() == "obj-y += x.o\n"


def test_the_headers_of_a_kernel_that_has_them_in_itself_are_kept_for_bcc(tree: Path) -> None:
    packed = tree / "headers.tar.xz"
    with tarfile.open(packed, "w:xz") as archive:
        for name in ("./include/linux/bpf.h", "./include/generated/autoconf.h", "./include/x.c", "./../../escape.h"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"here"))
    makefile = (tree / "Makefile").read_text()
    (tree / "Makefile").write_text(
        f"{makefile}\tmkdir -p $(O)/kernel && cp {packed} $(O)/kernel/kheaders_data.tar.xz\n"
    )
    build(tree, "bcc")
    [choice] = resolve(["6.1.7:bcc"])
    found = headers_of(choice, progress=lambda line: None)
    release = "6.1.7-minimal"  # of the image that the pretended build leaves, whatever the flavour
    folder = f"usr/src/linux-headers-{release}"
    assert (found.release, found.build, found.common) == (release, folder, folder)
    kept = sorted(path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*") if path.is_file())
    assert kept == [f"{folder}/include/generated/autoconf.h", f"{folder}/include/linux/bpf.h"]
    assert headers_of(choice, progress=lambda line: None) == found


def test_all_missing_programs_are_named_at_once(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="make, flex, bison, bc, perl, gcc, ld, gzip are not installed") as caught:
        build(tree)
    assert caught.value.hint == "apt-get install make flex bison bc perl gcc binutils gzip"


def test_a_tree_that_was_built_in_says_what_to_do(tree: Path) -> None:
    (tree / ".config").touch()
    with pytest.raises(KernelFileError, match="has been built in") as caught:
        build(tree)
    assert "mrproper" in caught.value.hint


@pytest.mark.parametrize("missing", ["Makefile", "Kconfig", "scripts/Makefile.lib"])
def test_an_incomplete_tree_is_refused(tree: Path, missing: str) -> None:
    (tree / missing).unlink()
    with pytest.raises(KernelFileError, match=r"is not a (complete )?kernel source tree"):
        kbuild.tree_version(tree)


def test_versions_of_trees(tree: Path) -> None:
    assert kbuild.tree_version(tree) == KernelVersion(6, 1, 7)
    makefile = (tree / "Makefile").read_text()
    (tree / "Makefile").write_text(
        makefile.replace("EXTRAVERSION =", "EXTRAVERSION = -rc3").replace("SUBLEVEL = 7", "SUBLEVEL = 0")
    )
    assert kbuild.tree_version(tree) == KernelVersion(6, 1, 0, 3)


# where trees come from


def packed_tree(tmp_path: Path, top: str = "linux-6.1.7") -> bytes:
    folder = kernel_tree(tmp_path / "packed")
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return tarball({f"{top}/{path.relative_to(folder)}": data for path, data in files.items()})


def kernel_org(server: Server, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    import hashlib

    folder = server.root / "v6.x"
    folder.mkdir()
    (folder / "linux-6.1.7.tar.xz").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    lines = f"{'0' * 64}  linux-6.1.6.tar.xz\n{digest}  linux-6.1.7.tar.xz\n{'1' * 64}  patch-6.1.9.xz\n"
    (folder / "sha256sums.asc").write_text(f"-----BEGIN PGP SIGNED MESSAGE-----\n{lines}")
    monkeypatch.setenv("HARNESS_KERNEL_ORG", server.url)


@pytest.mark.parametrize("text", ["6.1", "6.1.7", "v6.1.7"])
def test_a_release_from_kernel_org(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    kernel_org(server, monkeypatch, packed_tree(tmp_path))
    tree = source.from_kernel_org(text, progress=print)
    assert tree.origin == "kernel.org linux-6.1.7.tar.xz"
    assert kbuild.tree_version(tree.path) == KernelVersion(6, 1, 7)
    asked = len(server.requests)
    assert source.from_kernel_org(text, progress=print) == tree
    assert [path for path, _ in server.requests[asked:]] == ["/v6.x/sha256sums.asc"]


def test_a_tarball_that_is_not_what_kernel_org_published_is_refused(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_org(server, monkeypatch, packed_tree(tmp_path))
    path = server.root / "v6.x/linux-6.1.7.tar.xz"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(MirrorError, match="not the file"):
        source.from_kernel_org("6.1.7", progress=print)
    assert list((kernel_cache.folder() / "sources").glob("*[!k]")) == []


def test_releases_that_kernel_org_does_not_have(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_org(server, monkeypatch, packed_tree(tmp_path))
    with pytest.raises(SelectorError, match=r"no release 6\.1\.8"):
        source.from_kernel_org("6.1.8", progress=print)
    with pytest.raises(MirrorError, match=r"has no sha256sums\.asc"):
        source.from_kernel_org("5.4", progress=print)
    (server.root / "v6.x/linux-6.1.7.tar.xz").unlink()
    with pytest.raises(MirrorError, match="not served") as caught:
        source.from_kernel_org("6.1.7", progress=print)
    assert caught.value.hint == "try another release; the server is named by HARNESS_KERNEL_ORG"


def test_kernel_org_out_of_reach_names_the_ways_round_it() -> None:
    with pytest.raises(MirrorError, match="could not be fetched") as caught:
        source.from_kernel_org("6.1.7", progress=print)
    assert "HARNESS_KERNEL_ORG" in caught.value.hint
    assert "--source" in caught.value.hint


def index_of(server: Server, data: bytes) -> dict[str, object]:
    import hashlib

    (server.root / "s.deb").write_bytes(data)
    entry = {"name": "linux-source-6.1", "version": "6.1.7-1", "url": f"{server.url}/s.deb", "size": len(data)}
    return {"sources": [{**entry, "sha256": hashlib.sha256(data).hexdigest(), "suite": "bookworm"}]}


def test_debians_source_package(tmp_path: Path, server: Server) -> None:
    index = index_of(server, deb({"usr/src/linux-source-6.1.tar.xz": packed_tree(tmp_path, "linux-source-6.1")}))
    tree = source.find("6.1", lambda: index, progress=print)
    assert tree.origin == "linux-source-6.1 6.1.7-1"
    assert (tree.path / "Kconfig").is_file()
    assert source.find("6.1.7", lambda: index, progress=print) == tree


def test_a_source_package_without_sources(server: Server) -> None:
    with pytest.raises(KernelFileError, match="package that has no kernel sources"):
        source.from_debian("6.1", index_of(server, deb({"usr/share/doc/x": b""})), progress=print)


def test_when_no_place_has_it_each_reason_is_listed(server: Server) -> None:
    with pytest.raises(InfrastructureError, match=r"source of 5\.5 is unavailable") as caught:
        source.find("5.5", lambda: index_of(server, b""), progress=print)
    assert "debian: the Debian mirror has no source package of 5.5" in caught.value.detail
    assert "kernel.org: " in caught.value.detail


def test_a_tarball_in_hand_and_one_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "linux.tar.xz"
    path.write_bytes(packed_tree(tmp_path))
    assert kbuild.tree_version(source.in_hand(path, "", progress=print).path) == KernelVersion(6, 1, 7)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(KernelFileError, match="not a complete archive"):
        source.in_hand(path, "", progress=print)
    path.write_bytes(b"text")
    with pytest.raises(KernelFileError, match="not a complete archive"):
        source.in_hand(path, "", progress=print)


def test_an_archive_of_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "linux.tar.xz"
    path.write_bytes(tarball({"x/Makefile": b"all:\n"}))
    with pytest.raises(KernelFileError, match=rf"the archive {path} is not a complete kernel source tree"):
        source.in_hand(path, "", progress=print)


def test_an_archive_that_reaches_outside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "linux.tar.xz"
    path.write_bytes(tarball({"a/Makefile": b"", "a/../../evil": b""}))
    with pytest.raises(KernelFileError, match="outside its folder"):
        source.in_hand(path, "", progress=print)
    assert list(tmp_path.rglob("evil")) == []


def test_a_commit_of_a_git_repository(tree: Path) -> None:
    needs_program("git")

    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-C", str(tree), "-c", "user.name=a", "-c", "user.email=a@example.org", *words],
            check=True,
            capture_output=True,
        )

    git("init")
    git("add", "--all")
    git("commit", "-m", "x")
    git("tag", "v1")
    (tree / "Kconfig").write_text("changed")
    found = source.in_hand(tree, "v1", progress=print)
    assert (found.path / "Kconfig").read_text() != "changed"
    assert found.origin.startswith("v1 (")
    with pytest.raises(KernelFileError, match="no commit 'v2'"):
        source.in_hand(tree, "v2", progress=print)
    with pytest.raises(KernelFileError, match="does not exist"):
        source.in_hand(tree / "nothing", "", progress=print)


def test_a_tag_is_fetched_from_a_server(tree: Path) -> None:
    needs_features("trees", programs_only=True)
    for words in (["init"], ["add", "--all"], ["commit", "-m", "x"], ["tag", "v1"]):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(tree), *who, *words], check=True, capture_output=True)
    said: list[str] = []
    found = source.from_remote(f"file://{tree}", "v1", progress=said.append)
    assert kbuild.tree_version(found.path) == KernelVersion(6, 1, 7)
    assert re.fullmatch(rf"v1 \([0-9a-f]{{12}}\) of file://{tree}", found.origin)
    with pytest.raises(MirrorError, match="v2 cannot be fetched from") as caught:
        source.from_remote(f"file://{tree}", "v2", progress=said.append)
    assert "git ls-remote --tags" in caught.value.hint
    marker = tree.with_name("ran")
    with pytest.raises(MirrorError, match="cannot be fetched from"):
        source.from_remote(f"file://{tree}", f"--upload-pack=touch {marker}; false", progress=said.append)
    assert not marker.exists()


def test_the_list_of_kernel_org_is_verified_where_the_key_is(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, signers: tuple[Signer, Signer]
) -> None:
    kernel_org(server, monkeypatch, packed_tree(tmp_path))
    said: list[str] = []
    source.from_kernel_org("6.1.7", progress=said.append)
    assert any(line.startswith("unsigned: the signature of") for line in said)
    sums = server.root / "v6.x/sha256sums.asc"
    lines = sums.read_text().partition("\n")[2]
    monkeypatch.setenv("HARNESS_KERNEL_ORG_KEYRING", str(signers[0].keyring))
    sums.write_bytes(signers[1].sign(lines))
    with pytest.raises(MirrorError, match="not in the keyring"):
        source.from_kernel_org("6.1.7", progress=print)
    # What stands outside of the signed text does not count.
    sums.write_bytes(f"{'2' * 64}  linux-6.1.9.tar.xz\n".encode() + signers[0].sign(lines))
    assert source.from_kernel_org("6.1", progress=print).origin == "kernel.org linux-6.1.7.tar.xz"


@pytest.mark.parametrize("selector", ["6.1", "6.1.7", "6.1:minimal"])
def test_what_nobody_serves_is_built(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, selector: str
) -> None:
    kernel_org(server, monkeypatch, packed_tree(tmp_path))
    monkeypatch.setattr(DebianProvider, "offers", lambda _self, **_arguments: [])
    with pytest.raises(HarnessError, match="no kernel matches"):
        Catalog().resolve([selector])
    catalog = Catalog(build_missing=True)
    [choice] = catalog.resolve([selector])
    assert (choice.provider, choice.label) == ("source", selector)
    assert stored() == []
    kernel = catalog.acquire(choice)
    assert (kernel.release, kernel.label) == ("6.1.7-minimal", selector)
    assert stored() == ["local-6.1.7-minimal"]
    asked = len(server.requests)
    [again] = Catalog(build_missing=True).resolve([selector])
    assert (again.provider, Catalog().acquire(again)) == ("local", kernel)
    assert len(server.requests) == asked


@pytest.mark.parametrize("other", ["arm64", "riscv64"])
def test_what_nobody_serves_of_another_architecture_is_built(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    kernel_org(server, monkeypatch, packed_tree(tmp_path))
    monkeypatch.setattr(DebianProvider, "offers", lambda _self, **_arguments: [])
    [choice] = Catalog(build_missing=True).resolve([f"6.1:{other}"])
    assert (choice.provider, choice.architecture, choice.label) == ("source", other, f"6.1:{other}")


def test_ccache_is_used_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert kbuild.cached("gcc-12") == "ccache gcc-12"
    assert kbuild.cached("ccache gcc-12") == "ccache gcc-12"
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert kbuild.cached("gcc-12") == "gcc-12"


def test_a_missing_tool_is_named_with_its_package(tree: Path, take_away: Callable[[str], None]) -> None:
    take_away("bison")
    with pytest.raises(ToolMissing, match="bison is not installed; it is needed to build a kernel") as caught:
        build(tree)
    assert "apt-get install bison" in caught.value.hint


# builds that are kept

KEPT_MAKEFILE = MAKEFILE + (
    "vmlinux:\n\techo building >> $(O)/times\n\t! grep -q BROKEN kernel/bpf/x.c && cp kernel/bpf/x.c $(O)/vmlinux\n"
)


@pytest.fixture
def kept_tree(tmp_path: Path) -> Path:
    return kernel_tree(tmp_path / "linux", makefile=KEPT_MAKEFILE)


def times() -> int:
    return (kernel_cache.folder() / "kept/6.1.7-minimal/out/times").read_text().count("building")


def test_a_kept_build_is_changed_and_built_again(kept_tree: Path) -> None:
    with kept_tree_module.kept(kept_tree, "minimal", origin="here", progress=print) as build:
        assert build.vmlinux.read_text() == "int x;\n"
        build.write("kernel/bpf/x.c", "int y;\n")
        assert build.build() >= 0
        assert build.vmlinux.read_text() == "int y;\n"
        assert build.read("kernel/bpf/x.c") == "int x;\n"
        build.restore()
        build.build()
        assert build.vmlinux.read_text() == "int x;\n"
    assert times() == 3
    assert (kept_tree / "kernel/bpf/x.c").read_text() == "int x;\n"


def test_a_kept_build_is_there_the_next_time_with_its_sources_as_they_were(kept_tree: Path) -> None:
    with kept_tree_module.kept(kept_tree, "minimal", origin="here", progress=print) as build:
        build.write("kernel/bpf/x.c", "int y;\n")
    with kept_tree_module.kept(kept_tree, "minimal", origin="here", progress=print) as build:
        assert (build.source / "kernel/bpf/x.c").read_text() == "int x;\n"
    assert times() == 1
    with kept_tree_module.kept(kept_tree, "minimal", origin="elsewhere", progress=print):
        assert times() == 1  # in a folder of its own


def test_a_kept_build_that_fails_leaves_no_old_kernel(kept_tree: Path) -> None:
    with kept_tree_module.kept(kept_tree, "minimal", origin="here", progress=print) as build:
        build.write("kernel/bpf/x.c", "BROKEN\n")
        with pytest.raises(BuildError):
            build.build()
        assert not build.vmlinux.exists()


def test_a_kept_build_has_one_user_at_a_time(kept_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_tree_module, "_KEPT_WAIT", 0.1)
    with (
        kept_tree_module.kept(kept_tree, "minimal", origin="here", progress=print),
        pytest.raises(CacheError, match="another process has held"),
        kept_tree_module.kept(kept_tree, "minimal", origin="here", progress=print),
    ):
        pass


def test_a_file_that_a_kept_build_has_not_is_named(kept_tree: Path) -> None:
    with (
        kept_tree_module.kept(kept_tree, "minimal", origin="here", progress=print) as build,
        pytest.raises(KernelFileError, match=r"no file kernel/bpf/y\.c"),
    ):
        build.read("kernel/bpf/y.c")
