"""`docker commit`, `docker export` and `docker save`, with both clients."""

from __future__ import annotations

import io
import json
import tarfile
import time
from pathlib import Path

import pytest

from compat.conftest import Client
from ground.daemon import Daemon


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: member for member in tar}


def layers(client: Client, image: str) -> list[dict[str, tarfile.TarInfo]]:
    """Give what is in each layer of an image, by way of `save`."""
    with tarfile.open(fileobj=io.BytesIO(client("save", image).stdout)) as tar:
        manifest = json.loads(tar.extractfile("manifest.json").read())[0]
        assert manifest["RepoTags"] == [image]
        result = []
        for name in manifest["Layers"]:
            with tarfile.open(fileobj=io.BytesIO(tar.extractfile(name).read())) as layer:
                result.append({member.name: member for member in layer})
        return result


@pytest.fixture
def changed(client: Client):
    """A container that added, changed and deleted."""
    script = "mkdir -p /a/b; echo hi >/a/b/c; ln /a/b/c /a/d; echo x >>/etc/passwd; rm /bin/vi; ln -s c /a/b/l"
    name = f"changed-{client.name}"
    client("run", "--name", name, "-e", "A=1", "busybox", "sh", "-c", script)
    yield name
    client("rm", name)


def test_commit_makes_an_image_that_runs(client: Client, changed: str) -> None:
    image = client.out("commit", "-a", "me", "-m", "by hand", "-c", "ENV B=2", "-c", 'CMD ["sh", "-c", "cat /a/d; echo $A$B"]', changed, "made:commit")
    assert client.out("inspect", "-f", "{{.Id}} {{.Author}} {{.Comment}}", "made:commit") == f"{image} me by hand"
    assert client.out("run", "--rm", "made:commit") == "hi\n12"
    history = client.out("history", "--no-trunc", "--format", "{{.Comment}}|{{.CreatedBy}}", "made:commit").splitlines()
    assert history[0].startswith("by hand|sh -c mkdir -p /a/b")
    *_, top = layers(client, "made:commit")
    assert {".", "etc/passwd", "a", "a/b", "a/b/c", "a/d", "a/b/l", "bin", "bin/.wh.vi"} <= set(top)
    assert "bin/sh" not in top and top["a/d"].linkname == "a/b/c"
    client("run", "--rm", "made:commit", "test", "-e", "/bin/vi", check=1)
    client("rmi", "made:commit")


def test_what_nothing_changed_adds_no_layer(client: Client) -> None:
    client("create", "--name", f"still-{client.name}", "busybox", "true")
    client("commit", f"still-{client.name}", "made:still")
    count = "{{len .RootFS.Layers}}"
    assert client.out("inspect", "-f", count, "made:still") == client.out("inspect", "-f", count, "--type", "image", "busybox")
    client("rmi", "made:still")
    client("rm", f"still-{client.name}")


def test_a_running_container_is_frozen_meanwhile(client: Client, daemon: Daemon) -> None:
    name = f"runs-{client.name}"
    client("run", "-d", "--name", name, "busybox", "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/t; mv /t /first; echo $i >/t; mv /t /second; done")
    began = time.time()
    client("commit", name, "made:running")
    events = client.out("events", "--since", f"{began:.9f}", "--until", f"{time.time():.9f}", "--format", "{{.Action}}").splitlines()
    assert [e for e in events if e in ("pause", "unpause", "commit", "tag")] == ["pause", "unpause", "tag", "commit"]
    first, second = client.out("run", "--rm", "made:running", "cat", "/first", "/second").split()
    assert 0 <= int(first) - int(second) <= 1
    client("commit", "--pause=false", name, "made:running")
    assert client.out("inspect", "-f", "{{.State.Status}}", name) == "running"
    client("rm", "-f", name)
    client("rmi", "made:running")


def test_commit_refuses_as_docker_does(client: Client, changed: str, daemon: Daemon) -> None:
    assert b"No such container: nope" in client("commit", "nope", check=1).stderr
    assert b"is not a valid change command" in client("commit", "-c", "FOO bar", changed, check=1).stderr
    assert b"invalid reference format" in client("commit", changed, "Bad:name", check=1).stderr
    assert daemon.api_raw("POST", "/commit")[0] == 400
    assert daemon.api_raw("POST", "/commit?container=nope")[0] == 404
    assert daemon.api_raw("POST", f"/commit?container={changed}&repo=foo&tag=b@r")[0] == 400
    assert daemon.api_raw("GET", "/containers/nope/export")[0] == 404
    assert daemon.api_raw("GET", "/images/nope/get")[0] == 404
    assert daemon.api_raw("GET", "/images/get")[0] == 400
    assert daemon.api_raw("GET", "/images/busybox/get?platform=linux")[0] == 501


def test_the_body_is_the_images_configuration(changed: str, client: Client, daemon: Daemon) -> None:
    status, answer = daemon.api_raw("POST", f"/commit?container={changed}&changes=USER%20app", {"Cmd": ["env"], "Env": ["A=9"], "Labels": {"x": "y"}})
    assert status == 201
    config = daemon.api("GET", f"/images/{json.loads(answer)['Id']}/json")["Config"]
    assert (config["Cmd"], config["User"], config["Labels"]) == (["env"], "app", {"x": "y"})
    assert "A=9" in config["Env"] and "A=1" not in config["Env"]
    client("rmi", json.loads(answer)["Id"])


def test_export_gives_the_whole_root(client: Client, changed: str, tmp_path: Path) -> None:
    began = time.time()
    found = members(client("export", changed).stdout)
    assert {"a/b/c", "a/d", "bin/sh", "etc/passwd", "a/b/l"} <= set(found) and "bin/vi" not in found
    assert not {name for name in found if ".wh." in name}
    client("export", "-o", str(tmp_path / "x.tar"), changed)
    assert members((tmp_path / "x.tar").read_bytes()).keys() == found.keys()
    events = client.out("events", "--since", f"{began:.9f}", "--until", f"{time.time():.9f}", "--filter", "event=export", "--format", "{{.Action}}")
    assert events.split() == ["export", "export"]


def test_an_export_comes_back(client: Client, changed: str) -> None:
    client("import", "-", "made:back", stdin=client("export", changed).stdout)
    assert client.out("run", "--rm", "made:back", "cat", "/a/d") == "hi"
    client("rmi", "made:back")


def test_save_and_load(client: Client, changed: str) -> None:
    image = client.out("commit", changed, "saved:one")
    client("tag", "saved:one", "saved:two")
    archive = client("save", "saved").stdout
    assert client("save", "saved").stdout == archive
    client("rmi", "saved:one", "saved:two")
    client("inspect", "--type", "image", image, check=1)
    assert sorted(client.out("load", stdin=archive).splitlines()) == ["Loaded image: saved:one", "Loaded image: saved:two"]
    assert client.out("inspect", "-f", "{{.Id}}", "saved:two") == image
    client("rmi", "saved:one", "saved:two")


def test_from_another_storage_driver_the_layer_is_the_same(client: Client) -> None:
    digests = []
    for driver in ("overlayfs", "vfs"):
        name = f"{driver}-{client.name}"
        script = "echo same >/file; mkdir /dir; touch -d '2020-01-01 00:00:00' /file /dir; touch -d '2021-01-01 00:00:00' /"
        client("run", "--name", name, "--storage-opt", f"driver={driver}", "busybox", "sh", "-c", script)
        client("commit", name, f"made:{name}")
        digests.append(client.out("inspect", "-f", "{{index .RootFS.Layers 1}}", f"made:{name}"))
        client("rmi", f"made:{name}")
        client("rm", name)
    assert digests[0] == digests[1]


def test_a_removal_meanwhile_leaves_nothing_of_the_commit(docker: Client, daemon: Daemon) -> None:
    """Either the commit was quicker, and the image is whole, or it is refused; never an image of half a container."""
    for _ in range(4):
        docker("run", "--name", "short", "--storage-opt", "driver=vfs", "busybox", "sh", "-c", "mkdir /d; for i in $(seq 300); do echo $i >/d/$i; done")
        with docker.start("commit", "short", "made:short") as committing:
            docker("rm", "-f", "short")
            _, errors = committing.communicate(timeout=30)
        if committing.returncode == 0:
            assert docker.out("run", "--rm", "made:short", "sh", "-c", "ls /d | wc -l") == "300"
            docker("rmi", "made:short")
        else:
            assert b"removed" in errors or b"No such container" in errors or b"not found" in errors, errors
            docker("inspect", "--type", "image", "made:short", check=1)
