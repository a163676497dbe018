from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
from dataclasses import replace

import pytest
import zstandard

from sampan.api.errors import InvalidArgument, Unsupported
from sampan.content import archive, importer
from sampan.content.blobs import BlobStore
from sampan.content.images import read_config, read_manifest
from sampan.content.manifests import OCI_INDEX, OCI_MANIFEST, chain_ids, host_platform


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tar(files: dict[str, bytes | str | tuple[bytes, str]]) -> bytes:
    """Make a tar: bytes are files, strings symlinks, (type, link) anything."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content if isinstance(content, tuple) else (tarfile.SYMTYPE, content)
                made.addfile(info)
    return out.getvalue()


LAYER1, LAYER2 = tar({"etc/one": b"1"}), tar({"etc/two": os.urandom(300_000)})
CONFIG = json.dumps(
    {
        "architecture": host_platform().architecture,
        "os": "linux",
        "config": {"Cmd": ["sh"], "Labels": None},
        "rootfs": {"type": "layers", "diff_ids": [digest(LAYER1), digest(LAYER2)]},
        "history": None,
        "unknown": 1,
    }
).encode()


def docker_archive(**changes) -> dict[str, bytes | str | tuple[bytes, str]]:
    files: dict[str, bytes | str | tuple[bytes, str]] = {
        "a/layer.tar": LAYER1,
        "b/layer.tar": LAYER2,
        "config.json": CONFIG,
        "junk": b"dropped",
        "manifest.json": json.dumps(
            [
                {
                    "Config": "config.json",
                    "RepoTags": ["app:1", "example.com/app:2"],
                    "Layers": ["a/layer.tar", "b/layer.tar"],
                }
            ]
        ).encode(),
    }
    return {**files, **changes}


def oci_archive(*, layer2=LAYER2, suffix="", platform=None, nest=False, name="docker.io/library/app:1", **changes):
    blobs = {}

    def put(data: bytes, media_type: str) -> dict:
        blobs[f"blobs/sha256/{digest(data)[7:]}"] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    layers = [
        put(LAYER1, "application/vnd.oci.image.layer.v1.tar"),
        put(layer2, "application/vnd.oci.image.layer.v1.tar" + suffix),
    ]
    config = put(CONFIG, "application/vnd.oci.image.config.v1+json")
    manifest = put(json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode(), OCI_MANIFEST)
    if nest:
        unknown = {
            "mediaType": OCI_MANIFEST,
            "digest": digest(b"x"),
            "size": 1,
            "platform": {"architecture": "unknown", "os": "unknown"},
        }
        manifest["platform"] = platform or {"architecture": host_platform().architecture, "os": "linux"}
        manifest = put(json.dumps({"schemaVersion": 2, "manifests": [unknown, manifest]}).encode(), OCI_INDEX)
    manifest["annotations"] = {"io.containerd.image.name": name} if name else {}
    index = {"schemaVersion": 2, "manifests": [manifest]}
    return {**blobs, "oci-layout": b"{}", "index.json": json.dumps(index).encode(), **changes}


class Pipe(io.RawIOBase):
    """A stream that can't seek and gives little at a time."""

    def __init__(self, data: bytes) -> None:
        self.data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self.data.read(min(size, 7000) if size >= 0 else size)


@pytest.fixture
def blobs(tmp_path):
    store = BlobStore(tmp_path / "content")
    store.open()
    yield store
    assert os.listdir(store.root / "ingest") == []


def load(blobs, files):
    return archive.load(Pipe(files if isinstance(files, bytes) else tar(files)), blobs)


def xz_in_two(data: bytes) -> bytes:
    return lzma.compress(data[:1000]) + lzma.compress(data[1000:])


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress, lzma.compress, xz_in_two, bz2.compress])
def test_a_docker_archive(blobs, pack):
    (image,) = load(blobs, pack(tar(docker_archive())))
    assert image.config_digest == digest(CONFIG)
    assert image.references == ("docker.io/library/app:1", "example.com/app:2")
    manifest = read_manifest(blobs, image.manifest.digest)
    assert [layer.digest for layer in manifest.layers] == [digest(LAYER1), digest(LAYER2)]
    assert read_config(blobs, image.config_digest).config.cmd == ["sh"]
    assert {found for found, _ in blobs.walk()} == {
        digest(CONFIG),
        digest(LAYER1),
        digest(LAYER2),
        image.manifest.digest,
    }


def test_links_between_members_as_old_docker_writes_them(blobs):
    listing = json.dumps(
        [{"Config": "c/../config.json", "RepoTags": None, "Layers": ["a/layer.tar", "l/layer.tar"]}]
    ).encode()
    files = docker_archive(
        **{"manifest.json": listing, "l/layer.tar": "../hard", "hard": (tarfile.LNKTYPE, "b/layer.tar")}
    )
    (image,) = load(blobs, files)
    assert read_manifest(blobs, image.manifest.digest).layers[1].digest == digest(LAYER2)
    assert image.references == ()


def test_compressed_layers_are_kept_compressed_and_checked_plain(blobs):
    packed = gzip.compress(LAYER2)
    (image,) = load(blobs, docker_archive(**{"b/layer.tar": packed}))
    layer = read_manifest(blobs, image.manifest.digest).layers[1]
    assert (layer.digest, layer.media_type) == (digest(packed), "application/vnd.oci.image.layer.v1.tar+gzip")
    with pytest.raises(InvalidArgument, match=r"^invalid diffID for layer b/layer.tar: expected \"sha256:"):
        load(blobs, docker_archive(**{"b/layer.tar": gzip.compress(LAYER1)}))


@pytest.mark.parametrize("nest", [False, True])
def test_an_oci_layout(blobs, nest):
    packed = zstandard.compress(LAYER2)
    (image,) = load(blobs, oci_archive(layer2=packed, suffix="+zstd", nest=nest))
    assert (image.config_digest, image.references) == (digest(CONFIG), ("docker.io/library/app:1",))
    assert read_manifest(blobs, image.manifest.digest).layers[1].digest == digest(packed)


def test_an_image_for_another_machine_is_refused(blobs):
    with pytest.raises(InvalidArgument, match=r"no image for linux/\w+ in the archive, which has .*linux/s390"):
        load(blobs, oci_archive(nest=True, platform={"architecture": "s390", "os": "linux"}))


REFUSED = {
    "empty": {},
    "no manifest": {"etc/passwd": b"root"},
    "layer outside": docker_archive(**{"b/layer.tar": "../../../../etc/passwd"}),
    "layer absolute": docker_archive(**{"b/layer.tar": "/etc/passwd"}),
    "loop of links": docker_archive(**{"a/layer.tar": "../b/layer.tar", "b/layer.tar": "../a/layer.tar"}),
    "wrong layer": docker_archive(**{"b/layer.tar": LAYER1}),
    "too few layers": docker_archive(**{"manifest.json": b'[{"Config": "config.json", "Layers": ["a/layer.tar"]}]'}),
    "bad tag": docker_archive(
        **{"manifest.json": b'[{"Config": "config.json", "RepoTags": ["Bad"], "Layers": ["a/layer.tar", "b/layer.tar"]}]'}
    ),
    "manifest is no JSON": docker_archive(**{"manifest.json": b"[{"}),
    "manifest of another shape": docker_archive(**{"manifest.json": b'{"Config": 1}'}),
    "config is no JSON": docker_archive(**{"config.json": b"\0\0"}),
    "huge manifest": docker_archive(**{"manifest.json": b" " * (5 << 20)}),
    "oci blob of another digest": oci_archive(**{f"blobs/sha256/{digest(LAYER2)[7:]}": LAYER1}),
    "oci blob missing": {k: v for k, v in oci_archive().items() if k != f"blobs/sha256/{digest(LAYER2)[7:]}"},
    "oci digest with a path": {"index.json": json.dumps(
        {"manifests": [{"mediaType": OCI_MANIFEST, "digest": "sha256:../../x", "size": 1}]}).encode()},
    "not a tar": b"hello" * 1000,
    "cut": tar(docker_archive())[:200_000],
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_is_wrong_is_refused_and_leaves_nothing(blobs, case):
    with pytest.raises(InvalidArgument):
        load(blobs, REFUSED[case])
    assert list(blobs.walk()) == []


def test_the_oldest_form_is_refused_by_name(blobs):
    with pytest.raises(Unsupported, match="before Docker 1.10"):
        load(blobs, {"repositories": b"{}"})


def test_save_and_load_are_inverse_and_reproducible(blobs, tmp_path):
    images = load(blobs, docker_archive())
    outs = [io.BytesIO(), io.BytesIO()]
    for out in outs:
        archive.save(images, out, blobs)
    assert outs[0].getvalue() == outs[1].getvalue()
    other = BlobStore(tmp_path / "other")
    other.open()
    assert load(other, outs[0].getvalue()) == images
    without = tarfile.open(fileobj=io.BytesIO(outs[0].getvalue()))
    oci_only = {m.name: without.extractfile(m).read() for m in without if m.isfile() and m.name != "manifest.json"}
    third = BlobStore(tmp_path / "third")
    third.open()
    assert load(third, oci_only) == images


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_skopeo_reads_what_we_save_and_we_read_what_it_writes(blobs, tmp_path, form):
    images = load(blobs, docker_archive())
    with (tmp_path / "saved.tar").open("wb") as out:
        archive.save(
            [replace(images[0], references=images[0].references[:1])], out, blobs
        )
    target = f"{form}:{tmp_path}/copied.tar:docker.io/library/app:1"
    command = [
        "skopeo",
        "--insecure-policy",
        "--tmpdir",
        str(tmp_path),
        "copy",
        f"docker-archive:{tmp_path}/saved.tar",
        target,
    ]
    subprocess.run(command, check=True, capture_output=True)
    other = BlobStore(tmp_path / "other")
    other.open()
    with (tmp_path / "copied.tar").open("rb") as file:
        (image,) = archive.load(file, other)
    assert image.references == ("docker.io/library/app:1",)
    assert read_config(other, image.config_digest).rootfs.diff_ids == [digest(LAYER1), digest(LAYER2)]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress, lzma.compress, bz2.compress])
def test_import(blobs, pack):
    image = importer.import_tar(
        Pipe(pack(LAYER2)), blobs, ['CMD ["a", "b"]', "ENV X=1\nEXPOSE 80"], "Imported from -", None
    )
    config = read_config(blobs, image.config_digest)
    assert config.rootfs.diff_ids == [digest(LAYER2)]
    assert (config.config.cmd, config.config.env, config.config.exposed_ports) == (["a", "b"], ["X=1"], {"80/tcp": {}})
    assert config.history[0].comment == "Imported from -" and config.created
    (layer,) = read_manifest(blobs, image.manifest.digest).layers
    kept = LAYER2 if pack in (lzma.compress, bz2.compress) else pack(LAYER2)
    assert blobs.read(layer.digest, 1 << 20) == kept


@pytest.mark.parametrize("data", [b"hello" * 1000, gzip.compress(LAYER2)[:-20], LAYER2[:-300_000], b"\x1f\x8b"])
def test_import_of_what_is_no_tar_leaves_nothing(blobs, data):
    with pytest.raises(InvalidArgument):
        importer.import_tar(Pipe(data), blobs, [], "", None)
    assert list(blobs.walk()) == []


def test_import_platform(blobs):
    image = importer.import_tar(Pipe(LAYER1), blobs, [], "", "linux/arm64/v8")
    config = read_config(blobs, image.config_digest)
    assert (config.os, config.architecture, config.variant) == ("linux", "arm64", "v8")
    for bad in ("windows", "linux//", "a/b/c/d"):
        with pytest.raises(InvalidArgument):
            importer.import_tar(Pipe(LAYER1), blobs, [], "", bad)


def test_chain_ids():
    a, b = digest(b"a"), digest(b"b")
    assert chain_ids([]) == []
    assert chain_ids([a, b]) == [a, digest(f"{a} {b}".encode())]
