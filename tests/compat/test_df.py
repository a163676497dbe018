"""`docker system df`: by the stock client and ours, by API version and type, and beside dockerd with the same images."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compat.conftest import Client
from ground.daemon import Daemon
from ground.dockerd import running_dockerd

SIZES = {"base": (100_000, 12_345), "one": (777,), "two": (555, 44)}
"""Bytes of the files in each layer."""

LINK = "somewhere/else"


def layer(name: str) -> bytes:
    """A layer's tar: files, a hard link, a symbolic link, a directory, a file with a hole, a deletion."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        directory = tarfile.TarInfo(name)
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(directory)
        for number, size in enumerate(SIZES[name]):
            file = tarfile.TarInfo(f"{name}/{number}")
            file.size = size
            tar.addfile(file, io.BytesIO(os.urandom(size)))
        for kind, link in ((tarfile.LNKTYPE, f"{name}/0"), (tarfile.SYMTYPE, LINK)):
            member = tarfile.TarInfo(f"{name}/link{kind.decode()}")
            member.type, member.linkname = kind, link
            tar.addfile(member)
    return out.getvalue()


def size_of(name: str) -> int:
    return sum(SIZES[name]) + len(LINK)


@pytest.fixture(scope="module")
def archive() -> bytes:
    """Two images that share a layer, as `docker save` writes them."""
    layers = {name: layer(name) for name in SIZES}
    out, listing = io.BytesIO(), []
    with tarfile.open(fileobj=out, mode="w") as tar:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))

        for name, data in layers.items():
            add(f"{name}.tar", data)
        for image in ("one", "two"):
            names = ["base", image]
            config = {
                "architecture": "amd64", "os": "linux", "config": {"Cmd": ["true"]}, "created": "2026-01-01T00:00:00Z",
                "history": [{"created": "2026-01-01T00:00:00Z", "created_by": name} for name in names],
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layers[name]).hexdigest()}" for name in names]},
            }  # fmt: skip
            add(f"{image}.json", json.dumps(config).encode())
            listing.append({"Config": f"{image}.json", "RepoTags": [f"df-{image}:latest"], "Layers": [f"{n}.tar" for n in names]})
        add("manifest.json", json.dumps(listing).encode())
    return out.getvalue()


@pytest.fixture
def loaded(daemon: Daemon, archive: bytes) -> Iterator[Daemon]:
    daemon.docker("load", stdin=archive)
    yield daemon
    for container in daemon.api("GET", "/containers/json?all=1"):
        daemon.api("DELETE", f"/containers/{container['Id']}?force=1&v=1")
    daemon.docker("rmi", "df-one", "df-two")


def images(daemon: Daemon) -> dict[str, dict[str, Any]]:
    found = daemon.api("GET", "/system/df")["Images"]
    return {image["RepoTags"][0].partition(":")[0]: image for image in found}


def test_images_and_what_they_share(loaded: Daemon) -> None:
    found = images(loaded)
    for name in ("one", "two"):
        image = found[f"df-{name}"]
        assert (image["Size"], image["SharedSize"]) == (size_of("base") + size_of(name), size_of("base"))
    assert found["busybox"]["SharedSize"] == 0
    each_layer_once = size_of("base") + size_of("one") + size_of("two") + found["busybox"]["Size"]
    assert loaded.api("GET", "/system/df")["LayersSize"] == each_layer_once


def test_a_list_of_images_tells_what_they_share_when_asked(loaded: Daemon) -> None:
    def shared(query: str) -> dict[str, int]:
        return {image["RepoTags"][0]: image["SharedSize"] for image in loaded.api("GET", f"/images/json{query}")}

    assert shared("?shared-size=1") == {"busybox:latest": 0, **{f"df-{n}:latest": size_of("base") for n in ("one", "two")}}
    assert set(shared("").values()) == {-1}


def test_all_commands_tell_the_same_size(loaded: Daemon) -> None:
    size = size_of("base") + size_of("one")
    assert images(loaded)["df-one"]["Size"] == size
    listed = {image["RepoTags"][0]: image["Size"] for image in loaded.api("GET", "/images/json")}
    assert listed["df-one:latest"] == size
    assert loaded.api("GET", "/images/df-one/json")["Size"] == size
    history = loaded.api("GET", "/images/df-one/history")
    assert [step["Size"] for step in history] == [size_of("one"), size_of("base")]


def test_containers_and_volumes(loaded: Daemon) -> None:
    write = "dd if=/dev/zero of=/file bs=64k count=16; cp /file /d/"
    loaded.docker("run", "--name", "writer", "-v", "dfvol:/d", "busybox", "sh", "-c", write)
    loaded.docker("create", "--name", "idle", "-v", "dfvol:/d", "df-one")
    found = loaded.api("GET", "/system/df")
    sizes = {c["Names"][0]: c for c in found["Containers"]}
    whole = images(loaded)["busybox"]["Size"]
    assert 1 << 20 <= sizes["/writer"]["SizeRw"] < 1.2 * (1 << 20)
    assert sizes["/writer"]["SizeRootFs"] == sizes["/writer"]["SizeRw"] + whole
    assert sizes["/idle"]["SizeRw"] < 65536
    (volume,) = found["Volumes"]
    du = subprocess.run(["du", "-s", "--block-size=1", volume["Mountpoint"]], check=True, capture_output=True, text=True).stdout
    assert volume["UsageData"] == {"Size": int(du.split()[0]), "RefCount": 2}
    assert {image["RepoTags"][0]: image["Containers"] for image in found["Images"]} == {
        "busybox:latest": 1, "df-one:latest": 1, "df-two:latest": 0,
    }  # fmt: skip
    assert found["BuildCache"] == []


def test_by_type_and_version(loaded: Daemon) -> None:
    every = ("Images", "Containers", "Volumes", "BuildCache")

    def given(path: str) -> set[str]:
        answer = loaded.api("GET", path)
        return {name for name in every if answer[name] is not None}

    assert given("/v1.51/system/df") == set(every)
    assert given("/v1.51/system/df?type=image") == {"Images"}
    assert given("/v1.51/system/df?type=volume&type=container") == {"Volumes", "Containers"}
    assert given("/v1.42/system/df?type=build-cache") == {"BuildCache"}
    assert given("/v1.41/system/df?type=image") == set(every), "1.41 knew no types"
    status, answer = loaded.api_raw("GET", "/v1.51/system/df?type=nonsense")
    assert (status, json.loads(answer)) == (400, {"message": "unknown object type: nonsense"})
    assert loaded.api("GET", "/v1.51/system/df?type=container")["LayersSize"] == 0
    assert "VirtualSize" in loaded.api("GET", "/v1.43/system/df")["Images"][0]
    assert "VirtualSize" not in loaded.api("GET", "/v1.44/system/df")["Images"][0]
    assert "BuilderSize" in loaded.api("GET", "/v1.41/system/df")
    assert "BuilderSize" not in loaded.api("GET", "/v1.42/system/df")


def test_the_summary(loaded: Daemon, client: Client) -> None:
    loaded.docker("create", "-v", "dfvol:/d", "busybox")
    rows = [line.split() for line in client.out("system", "df").splitlines()]
    assert rows[0] == ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]
    assert [row[0] for row in rows[1:]] == ["Images", "Containers", "Local", "Build"]
    assert rows[1][1:3] == ["3", "1"]
    template = "{{.Type}}={{.TotalCount}}/{{.Active}}"
    assert client.out("system", "df", "--format", template).splitlines() == [
        "Images=3/1", "Containers=1/0", "Local Volumes=1/1", "Build Cache=0/0",
    ]  # fmt: skip


def test_both_clients_print_the_same(loaded: Daemon) -> None:
    loaded.docker("create", "--name", "same", "-v", "dfvol:/d", "busybox", "true")

    def shown(run: Any, *more: str) -> list[list[str]]:
        lines = run("system", "df", *more).stdout.decode().partition("Build cache usage")[0].splitlines()
        return [[cell.strip() for cell in line.split("  ") if cell.strip() and "second" not in cell] for line in lines]

    assert shown(loaded.docker) == shown(loaded.sampan)
    assert shown(loaded.docker, "-v") == shown(loaded.sampan, "-v")


@pytest.fixture(scope="module")
def dockerd() -> Iterator[list[str]]:
    """A dockerd of its own, without a network; gives the client's command for it."""
    with running_dockerd("--bridge", "none", "--iptables=false", "--ip6tables=false") as daemon:
        yield daemon.client


def test_the_figures_are_dockerds(loaded: Daemon, archive: bytes, dockerd: list[str]) -> None:
    def theirs(*command: str) -> str:
        return subprocess.run([*dockerd, *command], input=archive, check=True, capture_output=True).stdout.decode()

    theirs("load")
    busybox = loaded.docker("images", "-q", "busybox").stdout.decode().strip()
    assert busybox
    columns = "{{.Repository}} {{.ID}} {{.Size}}"
    ours = loaded.docker("images", "--format", columns).stdout.decode().splitlines()
    assert set(theirs("images", "--format", columns).splitlines()) == {line for line in ours if line.startswith("df-")}
    for name in ("df-one", "df-two"):
        form = ("history", "--human=false", "--format", "{{.CreatedBy}} {{.Size}}", name)
        assert theirs(*form) == loaded.docker(*form).stdout.decode()
    verbose = json.loads(theirs("system", "df", "-v", "--format", "{{json .Images}}"))
    fields = ("Repository", "Size", "SharedSize", "UniqueSize", "Containers")
    own = json.loads(loaded.docker("system", "df", "-v", "--format", "{{json .Images}}").stdout)
    assert {tuple(image[field] for field in fields) for image in verbose} == {
        tuple(image[field] for field in fields) for image in own if image["Repository"] != "busybox"
    }


FILES = 10_000


def test_measuring_a_large_tree_holds_up_nobody(daemon: Daemon) -> None:
    """While many files are measured, other requests are answered between, quickly."""
    where = Path(daemon.api("POST", "/volumes/create", {"Name": "many"})["Mountpoint"])
    for directory in range(FILES // 100):
        (where / str(directory)).mkdir()
        for file in range(100):
            os.close(os.open(where / str(directory) / str(file), os.O_CREAT | os.O_WRONLY))
    took, waits = 0.0, []
    for _ in range(3):  # as it is quick, a few times
        begun = time.monotonic()
        with subprocess.Popen(
            daemon.inside(["docker", "system", "df"]), stdout=subprocess.PIPE, env=daemon.client_environment(),
            pass_fds=(daemon.netns,),
        ) as client:  # fmt: skip
            while client.poll() is None:
                asked = time.monotonic()
                daemon.api_raw("GET", "/_ping")
                waits.append(time.monotonic() - asked)
        assert client.returncode == 0
        took += time.monotonic() - begun
    waits.sort()
    assert waits[len(waits) // 2] < took / 3 / 4, f"half of {len(waits)} pings took over {waits[len(waits) // 2]:.3f} s"
