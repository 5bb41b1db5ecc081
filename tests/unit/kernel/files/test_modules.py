"""Which modules are loaded in which order."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import KernelFileError, SelectorError
from harness.kernel.files.modules import ModulePlan, canonical, find, modinfo, parse_builtin, parse_dep, plan, softly
from tests.unit.kernel.kernel_fakes import elf, module

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".xz": lzma.compress,
    ".gz": gzip.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def tree(folder: Path, depends: dict[str, str], suffix: str = "") -> Path:
    for name, needs in depends.items():
        path = folder / "kernel" / name[0] / f"{name}.ko{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PACK[suffix](module(needs)))
    (folder / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\nkernel/lib/in-side.ko\n")
    return folder


DEPENDS = {"nf-conntrack": "nf_defrag_ipv4,libcrc32c", "nf_defrag_ipv4": "", "libcrc32c": "in_side", "lonely": ""}


def names(result: ModulePlan) -> list[str]:
    return [canonical(path.name) for path in result.files]


@pytest.mark.parametrize("suffix", PACK)
def test_dependencies_come_first_read_from_the_modules_themselves(tmp_path: Path, suffix: str) -> None:
    folder = tree(tmp_path, DEPENDS, suffix)
    assert names(find(folder, ["nf_conntrack"])) == ["nf_defrag_ipv4", "libcrc32c", "nf_conntrack"]
    assert all(path.is_file() for path in find(folder, ["nf-conntrack"]).files)


def test_depmods_index_is_used_where_there_is_one(tmp_path: Path) -> None:
    folder = tree(tmp_path, DEPENDS)
    (folder / "modules.dep").write_text("kernel/n/nf-conntrack.ko: kernel/l/lonely.ko\nkernel/l/lonely.ko:\n")
    assert names(find(folder, ["nf-conntrack"])) == ["lonely", "nf_conntrack"]


def test_what_a_module_softly_depends_on_comes_before_it_where_it_is_there(tmp_path: Path) -> None:
    assert softly("pre: crypto-crc32c") == ["crypto_crc32c", "crc32c_generic"]
    assert softly("pre: a b-c post: d") == ["a", "a_generic", "b_c", "b_c_generic"]
    assert softly("post: d") == softly("") == []
    folder = tree(tmp_path, {"lonely": "", "crc32c_generic": ""})
    (folder / "kernel/e").mkdir()
    (folder / "kernel/e/extfs.ko").write_bytes(module("lonely", softdep="pre: crypto-crc32c crypto-sha1"))
    assert names(find(folder, ["extfs"])) == ["lonely", "crc32c_generic", "extfs"]
    files = {"a": Path("a"), "b": Path("b")}
    assert plan(["a"], files, frozenset(), lambda _: (), lambda name: {"a": "b", "b": "a"}[name]).files == (
        Path("b"),
        Path("a"),
    )


def test_built_in_modules_need_no_file(tmp_path: Path) -> None:
    assert find(tree(tmp_path, DEPENDS), ["ext4", "lonely"]) == ModulePlan(
        (tmp_path / "kernel/l/lonely.ko",), ("ext4",)
    )


def test_an_unknown_module_suggests_names_like_it(tmp_path: Path) -> None:
    with pytest.raises(SelectorError, match="no module 'nf_conntrak'") as caught:
        find(tree(tmp_path, DEPENDS), ["nf-conntrak"])
    assert "nf_conntrack" in caught.value.hint


def test_a_missing_dependency_says_who_needs_it(tmp_path: Path) -> None:
    with pytest.raises(SelectorError, match="no module 'b', which a needs"):
        find(tree(tmp_path, {"a": "b"}), ["a"])


def test_a_circle_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KernelFileError, match="circle: a > b > a"):
        find(tree(tmp_path, {"a": "b", "b": "a"}), ["a"])


def test_a_damaged_module_is_named(tmp_path: Path) -> None:
    folder = tree(tmp_path, {"a": ""}, ".xz")
    path = folder / "kernel/a/a.ko.xz"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(KernelFileError, match=r"a\.ko\.xz is damaged"):
        find(folder, ["a"])


@pytest.mark.parametrize("data", [b"", b"text" * 100, elf(), module()[:80]])
def test_other_files_than_modules_are_refused(data: bytes) -> None:
    with pytest.raises(KernelFileError, match="not a kernel module"):
        modinfo(data, "x.ko")


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_modinfo(order: str, bits: int) -> None:
    data = module("a,b", order=order, bits=bits)
    assert modinfo(data, "m.ko") == {"license": "GPL", "depends": "a,b", "name": "m"}


def test_index_files() -> None:
    assert parse_dep("kernel/a-b.ko.xz: kernel/c.ko.xz kernel/d.ko.xz\nkernel/c.ko.xz:\n\n") == {
        "a_b": ["c", "d"],
        "c": [],
    }
    assert parse_builtin("kernel/a-b.ko\nkernel/c.ko\n") == {"a_b", "c"}


@given(st.dictionaries(st.integers(0, 30), st.sets(st.integers(0, 30), max_size=4), min_size=1, max_size=31))
def test_in_any_graph_without_circles_every_module_comes_once_and_after_all_it_needs(
    graph: dict[int, set[int]],
) -> None:
    # An edge to a smaller number cannot close a circle.
    needs = {f"m{node}": [f"m{other}" for other in sorted(others) if other < node] for node, others in graph.items()}
    for others in list(needs.values()):
        for other in others:
            needs.setdefault(other, [])
    result = plan(needs, {name: Path(f"{name}.ko") for name in needs}, frozenset(), needs.__getitem__)
    order = names(result)
    assert sorted(order) == sorted(needs)
    for name in order:
        assert all(order.index(other) < order.index(name) for other in needs[name])
