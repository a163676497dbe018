"""Tars and image archives that lie, lead out, or blow up, over the API (A11, A12, A13)."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import secrets
import socket
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ground.daemon import Daemon
from ground.hostile import busybox_with, docker_archive, import_image, send, tar

MEMORY = 200 << 20
"""Bytes that the daemon may grow by while it takes in a bomb."""

SECONDS = 20.0


def _blobs(daemon: Daemon) -> set[str]:
    content = daemon.root / "content"
    return {path.name for directory in ("blobs/sha256", "ingest") for path in (content / directory).iterdir()}


def _peak(daemon: Daemon) -> int:
    for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory of the host that nothing may change."""
    path = Path(f"/tmp/sampan-abuse-{secrets.token_hex(4)}")
    path.mkdir()
    (path / "kept").write_text("host")
    yield path
    assert {entry.name for entry in path.iterdir()} == {"kept"}
    assert (path / "kept").read_text() == "host"
    assert (path / "kept").stat().st_nlink == 1
    (path / "kept").unlink()
    path.rmdir()


# ---------------------------------------------------------------- A11


@pytest.mark.parametrize("form", ["import", "load"])
def test_layer_that_leads_out(daemon: Daemon, outside: Path, form: str) -> None:
    """Each way out by itself: contained or refused, and the host's directory stays as it is."""
    up = "../" * 20 + str(outside).lstrip("/")
    ways: list[list[tuple[str, bytes, str]]] = [
        [(f"{up}/a", tarfile.REGTYPE, "x")],
        [(f"{outside}/b", tarfile.REGTYPE, "x")],
        [("l", tarfile.SYMTYPE, str(outside)), ("l/c", tarfile.REGTYPE, "x")],
        [("l", tarfile.SYMTYPE, up), ("l/d/e", tarfile.REGTYPE, "x")],
        [("h", tarfile.LNKTYPE, f"{outside}/kept")],
        [("h", tarfile.LNKTYPE, f"{up}/kept"), ("h", tarfile.REGTYPE, "x")],
        [("l", tarfile.SYMTYPE, str(outside)), ("l/.wh.kept", tarfile.REGTYPE, "")],
        [("l", tarfile.SYMTYPE, str(outside)), ("l/.wh..wh..opq", tarfile.REGTYPE, "")],
        [(".wh...", tarfile.REGTYPE, "")],
        [(f"{up}/.wh.kept", tarfile.REGTYPE, "")],
    ]
    for number, entries in enumerate(ways):
        root = busybox_with(entries)
        name = f"way{form}{number}"
        if form == "import":
            status, answer = import_image(daemon, name, root)
        else:
            status, answer = send(daemon, "/images/load", docker_archive(root, name=f"{name}:latest"))
        if status == 200:
            done = daemon.docker("run", "--rm", name, "sh", "-c", f"ls {outside}; cat /h", check=None)
            assert b"host" not in done.stdout
        else:
            assert 400 <= status < 500, answer


@pytest.mark.parametrize("attribute", ["trusted.overlay.redirect", "trusted.overlay.opaque", "trusted.overlay.overlay.opaque"])
def test_layer_that_commands_overlayfs(daemon: Daemon, attribute: str) -> None:
    """An upper directory with such an attribute would show what the engine never put there."""
    member = tarfile.TarInfo("bin")
    member.type, member.mode, member.pax_headers = tarfile.DIRTYPE, 0o755, {f"SCHILY.xattr.{attribute}": "/etc"}
    status, answer = import_image(daemon, "commander", member.tobuf(tarfile.PAX_FORMAT) + bytes(1024), "CMD true")
    if status == 200:
        status, answer = daemon.api_raw("POST", "/containers/create", {"Image": "commander"})
        daemon.api("DELETE", "/images/commander")
    assert status == 400 and attribute.encode() in answer, answer
    assert daemon.api("GET", "/sampan/storage/overlayfs/check") == []


# ---------------------------------------------------------------- A12


def test_gzip_bomb_is_hashed_in_little_memory(daemon: Daemon) -> None:
    """300 MB of zeros in 300 kB. Before and after are of the same process, so the growth is the bomb's."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9) as packed:
        header = tarfile.TarInfo("zeros")
        header.size = 300 << 20
        packed.write(header.tobuf())
        for _ in range(300):
            packed.write(bytes(1 << 20))
        packed.write(bytes(1024))
    before, began = _peak(daemon), time.monotonic()
    status, _ = import_image(daemon, "bomb", out.getvalue())
    assert status == 200
    assert time.monotonic() - began < SECONDS
    assert _peak(daemon) - before < MEMORY
    assert sum((daemon.root / "content/blobs/sha256" / name).stat().st_size for name in _blobs(daemon)) < 100 << 20


def _sparse(size: int) -> bytes:
    """A file that is all hole, in the PAX form 1.0 of GNU tar."""
    member = tarfile.TarInfo("huge")
    data = b"0\n".ljust(512, b"\0")
    member.size = len(data)
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "huge", "GNU.sparse.realsize": str(size)}
    return member.tobuf(tarfile.PAX_FORMAT) + data + bytes(1024)


def _long_header() -> bytes:
    return tar([("x" * (2 << 20), tarfile.REGTYPE, "")])


@pytest.mark.parametrize("make", [lambda: _sparse(1 << 60), _long_header, lambda: tar([("a" * 5000, tarfile.REGTYPE, "")]),
                                  lambda: tar([("/".join("d" * 1900), tarfile.REGTYPE, "")])],
                         ids=["sparse 1 EiB", "header of 2 MiB", "long name", "deep"])  # fmt: skip
def test_boundless_entry(daemon: Daemon, make: Any) -> None:
    free = os.statvfs(daemon.root)
    before = free.f_bavail * free.f_frsize
    began, peak = time.monotonic(), _peak(daemon)
    name = f"bound{secrets.token_hex(3)}"
    status, answer = import_image(daemon, name, make(), "CMD true")
    if status == 200:
        status, answer = daemon.api_raw("POST", "/containers/create", {"Image": name})
        for found in daemon.api("GET", "/containers/json?all=1"):
            daemon.api("DELETE", f"/containers/{found['Id']}")
        daemon.api("DELETE", f"/images/{name}")
    assert status == 201 or 400 <= status < 500, answer
    assert time.monotonic() - began < SECONDS
    assert _peak(daemon) - peak < MEMORY
    after = os.statvfs(daemon.root)
    assert before - after.f_bavail * after.f_frsize < MEMORY


def test_archive_of_too_many_members(daemon: Daemon) -> None:
    member = tarfile.TarInfo("same")
    member.type, member.linkname = tarfile.SYMTYPE, "other"
    header = member.tobuf()
    before, blobs, began = _peak(daemon), _blobs(daemon), time.monotonic()
    status, answer = send(daemon, "/images/load", header * 100_001 + bytes(1024))
    assert status == 400, answer
    assert time.monotonic() - began < 3 * SECONDS
    assert _peak(daemon) - before < MEMORY
    assert _blobs(daemon) == blobs


MANIFESTS = {
    "of 64 MiB": b"[" + b" " * (64 << 20) + b"]", "too deep": b"[" * 500_000, "an object": b"{}", "null": b"null", "numbers": b"[7]",
    "files of the host": b'[{"Config":"../../../etc/shadow","Layers":["/etc/shadow"]}]',
}  # fmt: skip


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_manifest_that_is_none(daemon: Daemon, manifest: str) -> None:
    listing = MANIFESTS[manifest]
    before, blobs = _peak(daemon), _blobs(daemon)
    status, answer = send(daemon, "/images/load", docker_archive(b"", manifest=listing))
    assert status == 400, answer
    assert _peak(daemon) - before < MEMORY
    assert _blobs(daemon) == blobs


# ---------------------------------------------------------------- A13


CONFIG: dict[str, Any] = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}

LIES: dict[str, dict[str, Any]] = {
    "another diff id": {"diff_ids": ["sha256:" + "0" * 64]},
    "no diff id": {"diff_ids": []},
    "a layer too many": {"diff_ids": ["sha256:" + "0" * 64] * 2},
    "a diff id by path": {"diff_ids": ["sha256:../../../etc/shadow"]},
    "no config": {"config": b"\0\1"},
    "config too deep": {"config": b'{"a":' * 200_000},
    "history of strings": {"config": json.dumps(CONFIG | {"history": ["x"]}).encode()},
    "env of numbers": {"config": json.dumps(CONFIG | {"config": {"Env": [1, 2]}}).encode()},
    "name out of the store": {"name": "../../x:y"},
    "name with an escape": {"name": "a\x1b[31m:b"},
}


@pytest.mark.parametrize("lie", LIES)
def test_archive_that_lies_is_refused_and_leaves_nothing(daemon: Daemon, lie: str) -> None:
    blobs, images = _blobs(daemon), daemon.api("GET", "/images/json")
    status, answer = send(daemon, "/images/load", docker_archive(tar([("f", tarfile.REGTYPE, "x")]), **LIES[lie]))
    assert status == 400, answer
    assert "Traceback" not in daemon.log
    assert daemon.api("GET", "/images/json") == images
    assert _blobs(daemon) == blobs


def test_second_image_that_lies_leaves_nothing_of_the_first(daemon: Daemon) -> None:
    layer = tar([(secrets.token_hex(4), tarfile.REGTYPE, secrets.token_bytes(1000))])
    digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    good = json.dumps(CONFIG | {"rootfs": {"type": "layers", "diff_ids": [digest]}})
    listing = [{"Config": "good", "RepoTags": ["good:1"], "Layers": ["l"]}, {"Config": "missing", "RepoTags": [], "Layers": []}]
    members = {"good": good, "l": layer, "manifest.json": json.dumps(listing)}
    archive = tar([(name, tarfile.REGTYPE, data) for name, data in members.items()])
    blobs = _blobs(daemon)
    assert send(daemon, "/images/load", archive)[0] == 400
    assert _blobs(daemon) == blobs


def test_oci_layout_whose_blobs_are_others(daemon: Daemon) -> None:
    """Digest and size of each descriptor are checked: manifest, config and layer in turn."""
    layer = tar([("f", tarfile.REGTYPE, "x")])
    blobs = _blobs(daemon)
    for liar in ("index", "config", "layer", "size"):
        config = json.dumps(CONFIG | {"rootfs": {"type": "layers", "diff_ids": [_digest(layer)]}}).encode()
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _described("application/vnd.oci.image.config.v1+json", config, wrong=liar == "config"),
            "layers": [_described("application/vnd.oci.image.layer.v1.tar", layer, wrong=liar == "layer", more=liar == "size")],
        }).encode()  # fmt: skip
        entry = _described("application/vnd.oci.image.manifest.v1+json", manifest, wrong=liar == "index")
        index = {"schemaVersion": 2, "manifests": [entry]}
        named = {_digest(data): data for data in (config, manifest, layer)}
        wrong = "sha256:" + "1" * 64
        named[wrong] = {"index": manifest, "config": config}.get(liar, layer)
        members = [(f"blobs/{key.replace(':', '/')}", tarfile.REGTYPE, data) for key, data in named.items()]
        members.append(("index.json", tarfile.REGTYPE, json.dumps(index).encode()))
        members.append(("oci-layout", tarfile.REGTYPE, b'{"imageLayoutVersion":"1.0.0"}'))
        status, answer = send(daemon, "/images/load", tar(members))
        assert status == 400, (liar, answer)
        assert _blobs(daemon) == blobs


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _described(kind: str, data: bytes, *, wrong: bool = False, more: bool = False) -> dict[str, Any]:
    return {"mediaType": kind, "digest": "sha256:" + "1" * 64 if wrong else _digest(data), "size": len(data) + more}


# ---------------------------------------------------------------- uploads that break off


def test_upload_that_breaks_off_leaves_nothing(daemon: Daemon) -> None:
    """Cut at the border of a member, where what came is a tar by itself: an early end is no end."""
    root = tar([(f"f{number}", tarfile.REGTYPE, secrets.token_bytes(100_000)) for number in range(8)])
    blobs, images = _blobs(daemon), len(daemon.api("GET", "/images/json"))
    for path in ("/images/create?fromSrc=-&repo=broken", "/images/load"):
        for part in (512 + 100_352, 2 * (512 + 100_352), 300_000):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(daemon.socket))
                sock.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(root)}\r\n\r\n".encode() + root[:part])
                time.sleep(0.02)
    deadline = time.monotonic() + SECONDS
    while _blobs(daemon) != blobs and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _blobs(daemon) == blobs
    assert len(daemon.api("GET", "/images/json")) == images


def test_idle_uploads_hold_up_nothing_else(daemon: Daemon) -> None:
    """Eight once took all threads of the daemon: no container started any more."""
    idle = []
    for _ in range(12):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(daemon.socket))
        sock.sendall(b"POST /images/load HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        idle.append(sock)
    try:
        began = time.monotonic()
        assert daemon.docker("run", "--rm", "busybox", "echo", "here").stdout == b"here\n"
        assert time.monotonic() - began < SECONDS
    finally:
        for sock in idle:
            sock.close()
