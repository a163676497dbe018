"""Images: import, load, save, tag, rmi, and what `run` takes from their configuration."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

from compat.conftest import Client


def small_root() -> bytes:
    """Give a tar of a tiny root: the static busybox and a file."""
    program = Path("/bin/busybox").read_bytes()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data, mode in (("bin/sh", program, 0o755), ("etc/passwd", b"app:x:7:8::/srv:/bin/sh\n", 0o644)):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), mode
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def docker_archive(path: Path, layer: bytes, config: dict[str, object], *tags: str) -> str:
    """Write what `docker save` writes; give the image's id."""
    digest = hashlib.sha256(layer).hexdigest()
    whole = {
        "architecture": "amd64", "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}, "history": [{"created_by": "a test"}],
    }  # fmt: skip
    text = json.dumps(whole).encode()
    name = hashlib.sha256(text).hexdigest()
    manifest = [{"Config": f"{name}.json", "RepoTags": list(tags), "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        for member_name, data in (
            (f"{digest}/layer.tar", layer), (f"{name}.json", text), ("manifest.json", json.dumps(manifest).encode()),
        ):  # fmt: skip
            member = tarfile.TarInfo(member_name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return f"sha256:{name}"


def test_import(client: Client) -> None:
    made = client.out("import", "-c", "ENV A=1", "-c", 'CMD ["sh", "-c", "echo $A"]', "-m", "by hand", "-", "made:1", stdin=small_root())
    assert made.startswith("sha256:")
    assert client.out("run", "--rm", "made:1") == "1"
    assert client.out("inspect", "-f", "{{.Id}}", "made:1") == made
    client("rmi", "made:1")
    assert b"No such image" in client("inspect", "--type", "image", "made:1", check=1).stderr.replace(b"no such image", b"No such image")


def test_load_run_by_its_configuration_and_remove(client: Client, tmp_path: Path) -> None:
    config = {
        "Env": ["PATH=/bin", "FROM=image", "OVER=image"], "Entrypoint": ["sh", "-c"], "Cmd": ["echo $FROM $OVER $PWD; echo ~"],
        "WorkingDir": "/made/by/engine", "User": "app", "Labels": {"kind": "test"},
        "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGUSR1",
    }  # fmt: skip
    image_id = docker_archive(tmp_path / "a.tar", small_root(), config, "loaded:1", "loaded:2")
    told = client.out("load", "-i", str(tmp_path / "a.tar"))
    assert told.splitlines() == ["Loaded image: loaded:1", "Loaded image: loaded:2"]
    assert client.out("run", "--rm", "-e", "OVER=mine", "loaded:1").split("\n") == ["image mine /made/by/engine", "/srv"]
    assert client.out("run", "--rm", "loaded:1", "echo other") == "other"
    assert client.out("inspect", "-f", "{{.Id}} {{.Config.User}}", "loaded:2") == f"{image_id} app"
    container = client.out("create", "loaded:1")
    assert client.out("inspect", "-f", "{{.Config.StopSignal}} {{.Config.Labels.kind}}", container) == "SIGUSR1 test"
    client("rmi", "loaded:2")
    assert b"image is being used by stopped container" in client("rmi", "loaded:1", check=1).stderr
    client("rm", container)
    client("rmi", "loaded:1")
    assert "loaded" not in client.out("images")


def test_load_from_stdin(client: Client, tmp_path: Path) -> None:
    image_id = docker_archive(tmp_path / "a.tar", small_root(), {"Cmd": ["sh", "-c", "echo same"]}, "piped:1")
    assert "Loaded image: piped:1" in client.out("load", stdin=(tmp_path / "a.tar").read_bytes())
    assert client.out("inspect", "-f", "{{.Id}}", "piped:1") == image_id
    assert client.out("run", "--rm", "piped:1") == "same"
    client("rmi", "piped:1")


def test_an_archive_by_another_tool(client: Client, tmp_path: Path) -> None:
    docker_archive(tmp_path / "a.tar", small_root(), {"Cmd": ["sh", "-c", "echo hi"]}, "ours:1")
    copied = ["skopeo", "copy", "-q", f"docker-archive:{tmp_path}/a.tar", f"oci-archive:{tmp_path}/b.tar:copied:1"]
    subprocess.run(copied, check=True)
    assert "Loaded image: copied:1" in client.out("load", "-i", str(tmp_path / "b.tar"))
    assert client.out("run", "--rm", "copied:1") == "hi"
    client("rmi", "copied:1")


def test_tags_and_listing(client: Client) -> None:
    client("tag", "busybox", "team/other:1.0")
    lines = client.out("images").splitlines()
    assert lines[0].split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    shown = {tuple(line.split()[:2]) for line in lines[1:]}
    assert {("busybox", "latest"), ("team/other", "1.0")} <= shown
    assert client.out("images", "-q", "--no-trunc", "team/other") == client.out("inspect", "-f", "{{.Id}}", "busybox")
    assert client.out("rmi", "team/other:1.0") == "Untagged: team/other:1.0"
    assert b"No such image: absent" in client("tag", "absent", "x:1", check=1).stderr
    assert b"invalid reference format" in client("tag", "busybox", "case/UPPER:1", check=1).stderr.lower()


def test_broken_archives_leave_nothing(client: Client, tmp_path: Path) -> None:
    docker_archive(tmp_path / "a.tar", small_root(), {}, "torn:1")
    data = (tmp_path / "a.tar").read_bytes()
    before = client.daemon.api("GET", "/images/json")
    assert client("load", stdin=data[: len(data) // 2], check=1).stderr
    assert client("load", stdin=b"no archive at all" * 100, check=1).stderr
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        tar.add("/etc/hostname", "hostname")
    assert client("load", "-i", str(tmp_path / "c.tar"), check=1).stderr
    assert client.daemon.api("GET", "/images/json") == before


def test_history(client: Client) -> None:
    lines = client.out("history", "busybox").splitlines()
    assert lines[0].split()[:2] == ["IMAGE", "CREATED"]
    assert "sampan image bootstrap" in lines[1]
