"""Storage drivers chosen, listed, checked and filled, as a user does it."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from compat.conftest import Client
from ground.daemon import Daemon
from ground.hostile import busybox_with, import_image


@pytest.mark.parametrize("options", [["--storage-opt", "driver=vfs"], ["--storage-opt=driver=vfs"]])
def test_a_driver_for_one_container(client: Client, options: list[str]) -> None:
    client("create", "--name", "other", *options, "busybox", "true")
    client("create", "--name", "usual", "busybox", "true")
    assert client.out("inspect", "-f", "{{.Driver}} {{.GraphDriver.Name}} {{.HostConfig.StorageOpt}}", "other") == "vfs vfs map[driver:vfs]"
    assert client.out("inspect", "-f", "{{.Driver}} {{.GraphDriver.Name}}", "usual") == "overlayfs overlayfs"
    client("start", "-a", "other")


@pytest.mark.parametrize(
    "options",
    [["--storage-opt", "driver=vfs,size=10M"], ["--storage-opt", "driver=vfs", "--storage-opt", "size=10M"],
     ["--storage-opt", "size=10M,driver=vfs"]],
)  # fmt: skip
def test_a_size_needs_quotas(client: Client, options: list[str]) -> None:
    refused = client("create", *options, "busybox", "true", check=None)
    assert refused.returncode
    assert b"storage driver vfs cannot limit a snapshot to 10485760 bytes" in refused.stderr


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("driver=zfs", b"unknown storage driver 'zfs': known ones are btrfs, overlayfs, vfs"),
        ("colour=blue", b"unknown storage option 'colour': known ones are driver, size, volatile"),
        ("driver=vfs,size=1G,size=2G", b"'size' is given twice"),
        ("driver=", b"'driver' has no value"),
        ("size=much", b"invalid size: 'much'"),
        ("size=-5", b"invalid size: '-5'"),
        ("size=0", b"invalid size: '0'"),
        ("volatile=perhaps", b"storage option 'volatile' is 'perhaps'"),
        ("size=" + "9" * 400, b"invalid size"),
    ],
)
def test_options_that_are_refused(client: Client, option: str, told: bytes) -> None:
    refused = client("create", "--storage-opt", option, "busybox", "true", check=None)
    assert refused.returncode
    assert told in refused.stderr


def test_volatile_is_for_one_container(client: Client) -> None:
    client("create", "--name", "quick", "--storage-opt", "volatile=true", "busybox", "grep", " / overlay", "/proc/mounts")
    client("create", "--name", "usual", "busybox", "grep", " / overlay", "/proc/mounts")
    for _ in range(2):
        assert "volatile" in client.out("start", "-a", "quick")
    assert "volatile" not in client.out("start", "-a", "usual")


def test_our_own_flag(daemon: Daemon) -> None:
    assert daemon.sampan("run", "--rm", "--storage-driver", "vfs", "busybox", "echo", "hi").stdout == b"hi\n"
    refused = daemon.sampan("create", "--storage-driver", "vfs", "--storage-opt", "driver=btrfs", "busybox", check=125)
    assert b"conflicting options" in refused.stderr


def test_info_names_the_drivers(docker: Client) -> None:
    docker("create", "--storage-opt", "driver=vfs", "busybox", "true")
    text = docker.out("info")
    assert " Storage Driver: overlayfs\n" in text
    assert "In use: overlayfs, vfs\n" in text
    assert "Installed: btrfs, overlayfs, vfs\n" in text


def test_list(daemon: Daemon) -> None:
    container = daemon.docker("create", "--name", "listed", "--storage-opt", "driver=vfs", "busybox", "true").stdout.decode().strip()
    lines = daemon.sampan("storage", "ls").stdout.decode().splitlines()
    assert lines[0].split() == ["NAME", "DEFAULT", "STATE", "CAPABILITIES", "SNAPSHOTS", "CONTAINERS", "REASON"]
    assert [line.split()[0] for line in lines[1:]] == ["btrfs", "overlayfs", "vfs"]
    assert "unavailable" in lines[1]
    assert "is not on btrfs" in lines[1]
    assert lines[2].split()[:3] == ["overlayfs", "yes", "open"]
    assert daemon.sampan("storage", "ls", "-q").stdout == b"btrfs\noverlayfs\nvfs\n"
    shown = daemon.sampan("storage", "ls", "--format", "{{.Name}}={{.Containers}}").stdout.decode().split()
    assert shown[2] == "vfs=1"
    lines = daemon.sampan("storage", "ls", "vfs", "--size").stdout.decode().splitlines()
    assert lines[0].split() == ["KEY", "PARENT", "KIND", "CREATED", "OWNER", "SIZE", "INODES"]
    image, own = [line for line in lines[1:] if "busybox" in line or "listed" in line]
    assert image.split()[1] == "committed" and "image busybox:latest" in image
    assert own.split()[:3] == [container[:12], image.split()[0], "active"] and "container listed" in own
    assert daemon.sampan("storage", "ls", "vfs", "-q", "--no-trunc").stdout.decode().split()[-1] == container
    item = json.loads(daemon.sampan("storage", "ls", "vfs", "--format", "json").stdout.splitlines()[-1])
    assert (item["Key"], item["Kind"]) == (container[:12], "active")
    refused = daemon.sampan("storage", "ls", "zfs", check=1)
    assert b"known ones are btrfs, overlayfs, vfs" in refused.stderr


def test_check(daemon: Daemon) -> None:
    container = daemon.docker("create", "--storage-opt", "driver=vfs", "busybox", "true").stdout.decode().strip()
    assert daemon.sampan("storage", "check").stdout == b"No damage found in overlayfs, vfs\n"
    stray = daemon.root / "storage/vfs/snapshots/4711"
    stray.mkdir()
    told = daemon.sampan("storage", "check", "vfs", check=1).stdout.decode()
    assert told == f"vfs: {stray}: no snapshot owns it: delete it\n"
    assert stray.exists()
    stray.rmdir()
    assert daemon.sampan("storage", "check", "vfs").stdout == b"No damage found in vfs\n"
    assert b"unknown storage driver" in daemon.sampan("storage", "check", "zfs", check=1).stderr
    daemon.docker("rm", container)


def test_migrate(daemon: Daemon) -> None:
    for name in ("one", "two"):
        daemon.docker("run", "--name", name, "--network", "none", "busybox", "sh", "-c", f"echo {name} > /name; cat /name")
    done = daemon.sampan("storage", "migrate", "one", "absent", "two", "--to", "vfs", check=1)
    assert done.stdout == b"one\ntwo\n"
    assert b"No such container: absent" in done.stderr
    assert b"is on vfs already" in daemon.sampan("storage", "migrate", "one", "--to", "vfs").stderr
    assert daemon.docker("inspect", "-f", "{{.GraphDriver.Name}}", "one", "two").stdout == b"vfs\nvfs\n"
    assert daemon.docker("start", "-a", "two").stdout == b"two\n"
    assert b"migrate" in daemon.sampan("trace", "--operation", "migrate", "one").stdout
    assert b"Missing option '--to'" in daemon.sampan("storage", "migrate", "one", check=125).stderr


# ---------------------------------------------------------------------- unpacking


def layers(daemon: Daemon, driver: str) -> list[str]:
    """Give the keys of the committed snapshots of a driver."""
    found = daemon.api("GET", f"/sampan/storage/{driver}/snapshots")
    return [item["Key"] for item in found if item["Kind"] == "committed"]


def test_unpack(daemon: Daemon) -> None:
    import_image(daemon, "more", busybox_with([]))
    first = daemon.sampan("image", "unpack", "more", "--storage-driver", "vfs").stdout.decode().splitlines()
    assert first[0].endswith(": Unpacked") and first[1].endswith("is unpacked in vfs")
    second = daemon.sampan("image", "unpack", "more", "--storage-driver", "vfs").stdout.decode().splitlines()
    assert second[0].endswith(": Already unpacked")
    assert daemon.sampan("image", "unpack", "-q", "more").stdout == b""
    count = len(layers(daemon, "vfs"))
    refused = daemon.sampan("image", "unpack", "absent", "more", "--storage-driver", "zfs", check=1)
    assert b"No such image: absent" in refused.stderr
    assert b"known ones are btrfs, overlayfs, vfs" in refused.stderr
    daemon.docker("rmi", "more")
    assert len(layers(daemon, "vfs")) == count - 1


def test_images_share_their_layers(daemon: Daemon) -> None:
    """An image made of a container builds on its image's snapshots, and goes without taking them along."""
    daemon.docker("run", "--name", "changed", "busybox", "sh", "-c", "echo x > /x")
    daemon.docker("commit", "changed", "derived")
    told = daemon.sampan("image", "unpack", "derived", "--storage-driver", "vfs").stdout.decode()
    assert told.count("npacked\n") == 2
    both = layers(daemon, "vfs")
    daemon.sampan("image", "unpack", "busybox", "--storage-driver", "vfs")
    assert layers(daemon, "vfs") == both
    daemon.docker("rmi", "derived")
    assert layers(daemon, "vfs") == both[:-1]
    assert daemon.docker("run", "--rm", "--storage-opt", "driver=vfs", "busybox", "echo", "hi").stdout == b"hi\n"


def test_many_unpack_at_once(daemon: Daemon) -> None:
    """It is done once; those who go away in the middle do not end it for the others."""
    import_image(daemon, "crowd", busybox_with([(f"f/{number}", b"0", b"x" * 2000) for number in range(1500)]))
    path = "/sampan/images/crowd/unpack?driver=vfs"
    leaving = [threading.Thread(target=ask_and_leave, args=(daemon, path)) for _ in range(3)]
    for thread in leaving:
        thread.start()
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: daemon.api_raw("POST", path), range(5)))
    for thread in leaving:
        thread.join()
    told = [json.loads(body.splitlines()[0])["status"] for status, body in answers if status == 200]
    assert len(told) == 5 and told.count("Unpacked") <= 1
    assert daemon.api("GET", "/sampan/storage/vfs/check") == []
    daemon.docker("rmi", "crowd")
    assert daemon.api("GET", "/sampan/storage/vfs/check") == []


def ask_and_leave(daemon: Daemon, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.socket))
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        client.recv(100)


def test_an_image_that_goes_while_it_is_unpacked(daemon: Daemon) -> None:
    before = layers(daemon, "overlayfs")
    import_image(daemon, "going", busybox_with([(f"f/{number}", b"0", b"y" * 2000) for number in range(1500)]))
    with ThreadPoolExecutor(1) as pool:
        unpacking = pool.submit(daemon.api_raw, "POST", "/sampan/images/going/unpack")
        daemon.docker("rmi", "going")
        status, answer = unpacking.result()
    assert (status == 404) or b"No such image" in answer or b"is unpacked in" in answer
    assert layers(daemon, "overlayfs") == before
    assert daemon.api("GET", "/sampan/storage/overlayfs/check") == []
