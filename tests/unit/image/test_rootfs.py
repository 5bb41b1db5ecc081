"""Root file systems: what each kind of source becomes, and what none may have."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from harness.errors import UsageError
from harness.image.layers import read_into
from harness.image.rootfs import Contents, rootfs
from harness.image.tree import FileTree
from harness.util.proc import run
from tests.needs import needs_features


def tar(*members: tarfile.TarInfo | tuple[str, str]) -> bytes:
    """Return an archive; a pair is a file with its content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for one in members:
            if isinstance(one, tuple):
                info = tarfile.TarInfo(one[0])
                info.size = len(one[1])
                archive.addfile(info, io.BytesIO(one[1].encode()))
            else:
                archive.addfile(one)
    return out.getvalue()


def member(name: str, kind: bytes, target: str = "", mode: int = 0o755, uid: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.uid = kind, target, mode, uid
    return info


def folder(name: str) -> tarfile.TarInfo:
    return member(name, tarfile.DIRTYPE)


def link(name: str, target: str) -> tarfile.TarInfo:
    return member(name, tarfile.SYMTYPE, target)


def hard(name: str, target: str) -> tarfile.TarInfo:
    return member(name, tarfile.LNKTYPE, target)


def docker(*layers: bytes) -> bytes:
    """Return what `docker save` writes."""
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = json.dumps([{"Config": "c.json", "RepoTags": None, "Layers": names}])
    return tar(
        ("manifest.json", manifest), *((name, data.decode("latin-1")) for name, data in zip(names, layers, strict=True))
    )


def oci(folder: Path, *layers: bytes) -> Path:
    """Make an OCI layout with images for two architectures; the other one's has no layer."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    manifest = blob(json.dumps({"layers": [blob(gzip.compress(layer, mtime=0)) for layer in layers]}).encode())
    other = blob(json.dumps({"layers": []}).encode())
    manifests = [
        {**manifest, "platform": {"architecture": "amd64"}},
        {**other, "platform": {"architecture": "arm64"}},
    ]
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"manifests": manifests}))
    return folder


def oci_archive(layer: bytes) -> bytes:
    """Return an OCI layout of one image with one layer, as an archive."""

    def blob(text: str) -> tuple[str, str]:
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f"blobs/sha256/{digest}", json.dumps({"digest": f"sha256:{digest}"})

    layer_name, described = blob(layer.decode("latin-1"))
    manifest = f'{{"layers": [{described}]}}'
    manifest_name, index = blob(manifest)
    return tar(
        ("oci-layout", ""),
        ("index.json", f'{{"manifests": [{index}]}}'),
        (manifest_name, manifest),
        (layer_name, layer.decode("latin-1")),
    )


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes | Path], dict[str, str]]:
    def read(source: bytes | Path) -> dict[str, str]:
        """Return the tree: the content of files, "-> target" of links, "/" of folders."""
        path = tmp_path / "source"
        if isinstance(source, bytes):
            path.write_bytes(source)
        contents = tmp_path / "contents"
        contents.mkdir()
        tree = FileTree("source", contents)
        read_into(tree, path if isinstance(source, bytes) else source, "amd64")
        tree.finish()
        found = {}
        for at, node in tree.nodes.items():
            shown = {"folder": "/", "link": f"-> {node.target}"}
            found[at] = shown.get(node.kind) or (contents / at).read_text()
        return found

    return read


PLAIN = tar(folder("./etc"), ("./etc/name", "a"), link("lib", "usr/lib"), ("usr/lib/x", "b"), hard("same", "usr/lib/x"))
TREE = {"etc": "/", "etc/name": "a", "lib": "-> usr/lib", "usr": "/", "usr/lib": "/", "usr/lib/x": "b", "same": "b"}


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, lzma.compress, lambda data: zstandard.ZstdCompressor().compress(data)],
    ids=["plain", "gzip", "xz", "zstd"],
)
def test_an_archive_may_be_compressed(read: Callable[..., dict[str, str]], pack: Callable[[bytes], bytes]) -> None:
    assert read(pack(PLAIN)) == TREE


def test_a_folder_keeps_its_links(read: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    made = tmp_path / "made"
    (made / "dev").mkdir(parents=True)
    (made / "dev/of-the-host").touch()
    (made / "a").write_text("a")
    (made / "l").symlink_to("/etc/passwd")
    assert read(made) == {"a": "a", "dev": "/", "l": "-> /etc/passwd"}


LAYERS = (
    tar(("a", "1"), ("gone", "1"), folder("d"), ("d/old", "1"), folder("e"), ("e/x", "1"), link("lib", "usr/lib")),
    # A file through a link, a whiteout, a folder that hides what was in it, a folder in place of a file.
    tar(
        ("lib/y", "2"),
        (".wh.gone", ""),
        ("d/new", "2"),
        ("d/.wh..wh..opq", ""),
        folder("a"),
        ("a/b", "2"),
        (".wh.e", ""),
    ),
    tar(hard("z", "lib/y")),
)
PUT_TOGETHER = {
    "d": "/",
    "d/new": "2",
    "lib": "-> usr/lib",
    "usr": "/",
    "usr/lib": "/",
    "usr/lib/y": "2",
    "a": "/",
    "a/b": "2",
    "z": "2",
}


def test_layers_of_a_saved_image_are_put_together(read: Callable[..., dict[str, str]]) -> None:
    assert read(docker(*LAYERS)) == PUT_TOGETHER


def test_layers_of_an_oci_layout_are_put_together(read: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    assert read(oci(tmp_path / "oci", *LAYERS)) == PUT_TOGETHER


@pytest.mark.parametrize(("damage", "said"), [(b"x", "is damaged: its sha256 is"), (None, "is missing")])
def test_a_layout_with_a_damaged_blob_is_refused(
    read: Callable[..., dict[str, str]], tmp_path: Path, damage: bytes | None, said: str
) -> None:
    layout = oci(tmp_path / "oci", *LAYERS)
    blob = layout / "blobs/sha256" / hashlib.sha256(gzip.compress(LAYERS[0], mtime=0)).hexdigest()
    blob.unlink()
    if damage is not None:
        blob.write_bytes(damage)
    with pytest.raises(UsageError, match="cannot be read as an OCI layout") as raised:
        read(layout)
    assert said in raised.value.what


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"", "cannot be read as an archive"),
        (tar(("manifest.json", "[5]")), "its list of layers is malformed"),
        (tar(("oci-layout", ""), ("index.json", '{"manifests": [5]}')), "its list of layers is malformed"),
        (b"#!/bin/sh\n" * 200, "cannot be read as an archive"),
        (gzip.compress(PLAIN)[:-40], "cannot be read as an archive"),
        (PLAIN[:700], "cannot be read as an archive"),
        (tar(("/etc/x", "")), "it has the path '/etc/x'"),
        (tar(("a/../../x", "")), "it has the path 'a/../../x'"),
        (tar(('a"b', "")), "it has the name"),
        (tar(member("sda", tarfile.BLKTYPE)), "sda is a device"),
        (tar(member("pipe", tarfile.FIFOTYPE)), "pipe is neither a file, a folder nor a link"),
        (tar(hard("a", "../../etc/passwd")), "it has the path '../../etc/passwd'"),
        (tar(hard("a", "none")), "'a' is a hard link to 'none', which is not a file of it"),
        (tar(hard("a", "l"), link("l", "/etc/passwd")), "is a hard link to"),
        (tar(link("a", "b"), link("b", "a"), ("a/x", "")), "its links go round in circles"),
        (tar(("a", ""), ("a/x", "")), "'a/x' is below 'a', which is not a folder"),
        (tar(("manifest.json", "[]")), "it has 0 images"),
        (tar(("manifest.json", "{")), "cannot be read as an archive"),
        (tar(("manifest.json", '[{"Layers": ["none"]}]')), "cannot be read as an archive"),
        (tar(("oci-layout", ""), ("index.json", '{"layers": [{"digest": "sha256:../x"}]}')), "is not a digest"),
    ],
)
def test_what_cannot_be_one_is_one_clear_error(read: Callable[..., dict[str, str]], source: bytes, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        read(source)
    assert said in raised.value.what
    assert raised.value.expected


def test_nothing_is_written_outside_however_links_lead(read: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    source = tar(link("out", str(outside)), ("out/x", "1"), link("up", "../../../.."), ("up/y", "1"))
    found = read(source)
    assert found[f"{str(outside).lstrip('/')}/x"] == "1"
    assert found["y"] == "1"
    assert list(outside.iterdir()) == []


def test_an_image_has_owners_and_modes_that_this_machine_never_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_features("rootfs")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "r.tar"
    source.write_bytes(tar(("a b", "content"), member("su", tarfile.REGTYPE, mode=0o4755, uid=7), link("l", "su")))
    found = rootfs(source, "amd64")
    assert found.contents() == Contents(["/a b", "/su"], {"/l": "su"}, {})
    assert rootfs(source, "amd64") == found
    assert found.path.stat().st_mode & 0o777 == 0o444

    def seen(command: str) -> str:
        return run(["/sbin/debugfs", "-R", command, found.path], timeout=60).stdout

    assert "Mode:  04755" in seen("stat /su")
    assert "User:     7" in seen("stat /su")
    assert 'Fast link dest: "su"' in seen("stat /l")
    assert seen('cat "/a b"') == "content"
    assert [path for path in tmp_path.rglob("*") if path.lstat().st_mode & 0o4000] == []
    assert "lost+found" not in seen("ls /")
    with pytest.raises(UsageError, match="there is no"):
        rootfs(tmp_path / "none", "amd64")
    source.write_bytes(tar(("other", "")))
    assert rootfs(source, "amd64").path != found.path
