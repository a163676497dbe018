"""Disks that fill up or fail, processes killed while they unpack, and a power cut: told clearly, and nothing half is left."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import secrets
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ground.daemon import Daemon, new_daemon, processes_of
from ground.disks import Disk, mounted, new_disk
from ground.hostile import Entry, busybox_with, import_image
from ground.waiting import wait_until

MB = 1 << 20
DRIVERS = [("overlayfs", "ext4"), ("vfs", "ext4"), ("btrfs", "btrfs")]


@contextmanager
def daemon_on(kind: str, size: int, driver: str, *options: str) -> Iterator[tuple[Daemon, Disk]]:
    """Give a daemon with busybox whose root is a disk of its own."""
    with new_daemon("--storage-driver", driver) as daemon, new_disk(daemon.root, kind, size, *options) as disk:
        try:
            daemon.start()
            daemon.api("POST", "/sampan/images/bootstrap")
            yield daemon, disk
        finally:
            end(daemon)


def end(daemon: Daemon) -> None:
    """Kill the daemon and all of its processes, so that its disk can go."""
    for pid in {daemon.pid, *processes_of(daemon)}:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    daemon.process.wait(10)


def layer_of(files: int, size: int) -> bytes:
    """Give the tar of a busybox root with `files` files of `size` bytes that do not compress, and share no block."""
    entries: list[Entry] = [(f"data/{number}", tarfile.REGTYPE, secrets.token_bytes(size)) for number in range(files)]
    return busybox_with(entries)


def zeros(size: int) -> bytes:
    """Give the packed tar of a busybox root with one file of zeros."""
    return gzip.compress(busybox_with([("zeros", tarfile.REGTYPE, bytes(size))]), 1)


def blobs(daemon: Daemon) -> set[str]:
    content = daemon.root / "content"
    return {path.name for directory in ("blobs/sha256", "ingest") for path in (content / directory).iterdir()}


def snapshots(daemon: Daemon, driver: str) -> list[Any]:
    return daemon.api("GET", f"/sampan/storage/{driver}/snapshots")


def mentions_space(text: bytes) -> bool:
    return b"no space left on" in text.lower()


def check_whole(daemon: Daemon, driver: str) -> None:
    """Fail if the driver, or the engine's records of it, have anything half or too much."""
    assert daemon.api("GET", f"/sampan/storage/{driver}/check") == []
    assert "Traceback" not in daemon.log


# ---------------------------------------------------------------- full disks


@pytest.mark.parametrize(("driver", "kind"), DRIVERS)
def test_disk_that_fills_up_while_an_image_comes_in(driver: str, kind: str) -> None:
    layer = layer_of(4, 10 * MB)
    with daemon_on(kind, 384 * MB, driver) as (daemon, disk):
        before = blobs(daemon)
        disk.fill(30 * MB)
        status, answer = import_image(daemon, "large", layer)
        assert status == 500 and mentions_space(answer) and b"free some space" in answer, answer
        assert blobs(daemon) == before
        assert disk.space() > 25 * MB
        assert daemon.docker("run", "--rm", "busybox", "echo", "alive").stdout == b"alive\n"
        disk.free()
        assert import_image(daemon, "large", layer)[0] == 200
        assert daemon.docker("run", "--rm", "large", "ls", "/data").stdout.split() == [b"0", b"1", b"2", b"3"]
        check_whole(daemon, driver)
        check_nothing_left_but(daemon, disk)


@pytest.mark.parametrize(("driver", "kind"), DRIVERS)
def test_disk_that_fills_up_while_a_layer_is_unpacked(driver: str, kind: str) -> None:
    with daemon_on(kind, 384 * MB, driver) as (daemon, disk):
        daemon.docker("create", "busybox", "true")
        assert import_image(daemon, "zeros", zeros(100 * MB))[0] == 200
        before = snapshots(daemon, driver)
        disk.fill(40 * MB)
        done = daemon.docker("create", "zeros", "true", check=None)
        assert done.returncode and mentions_space(done.stderr) and b"unpack" in done.stderr, done.stderr
        assert snapshots(daemon, driver) == before
        check_whole(daemon, driver)
        disk.free()
        assert daemon.docker("run", "--rm", "zeros", "ls", "-l", "/zeros").stdout.split()[4] == str(100 * MB).encode()
        check_whole(daemon, driver)
        check_nothing_left_but(daemon, disk)


def test_disk_that_fills_up_while_a_container_is_committed() -> None:
    with daemon_on("ext4", 384 * MB, "overlayfs") as (daemon, disk):
        daemon.docker("run", "--name", "large", "busybox", "dd", "if=/dev/urandom", "of=/file", "bs=1M", "count=40")
        before = blobs(daemon)
        disk.fill(30 * MB)
        done = daemon.docker("commit", "large", "large:1", check=None)
        assert done.returncode and b"no space left on the disk but a reserve" in done.stderr, done.stderr
        assert blobs(daemon) == before
        disk.free()
        daemon.docker("commit", "large", "large:1")
        check_whole(daemon, "overlayfs")
        check_nothing_left_but(daemon, disk)


def test_disk_that_is_full_without_saying_so() -> None:
    """btrfs: not even the index can be written any more, so half a layer stays until there is room."""
    with daemon_on("btrfs", 384 * MB, "btrfs") as (daemon, disk):
        assert import_image(daemon, "zeros", zeros(100 * MB))[0] == 200
        before = snapshots(daemon, "btrfs")
        disk.fill(40 * MB, told=False)
        done = daemon.docker("create", "zeros", "true", check=None)
        assert done.returncode and mentions_space(done.stderr), done.stderr
        disk.free()
        daemon.docker("run", "--rm", "zeros", "true")
        assert [found["Kind"] for found in snapshots(daemon, "btrfs")] == ["committed"] * (len(before) + 1)
        check_whole(daemon, "btrfs")


def check_nothing_left_but(daemon: Daemon, disk: Disk) -> None:
    """Remove the containers and fail if they leave anything but the disk's own mount."""
    for container in daemon.api("GET", "/containers/json?all=1"):
        daemon.api("DELETE", f"/containers/{container['Id']}?force=1&v=1")
    base = str(daemon.root)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if base in line]
    assert mounts == [base]
    assert list((daemon.root / "containers").iterdir()) == []


def test_file_system_without_room_for_another_file() -> None:
    """Bytes there are, inodes not: the kernel says so in the middle of a layer."""
    with daemon_on("ext4", 384 * MB, "overlayfs", "-N", "2000") as (daemon, _):
        assert import_image(daemon, "many", layer_of(3000, 10))[0] == 200
        before = snapshots(daemon, "overlayfs")
        done = daemon.docker("create", "many", "true", check=None)
        assert done.returncode and b"No space left on device" in done.stderr and b"data/" in done.stderr, done.stderr
        assert snapshots(daemon, "overlayfs") == before
        assert daemon.docker("run", "--rm", "busybox", "echo", "alive").stdout == b"alive\n"
        check_whole(daemon, "overlayfs")


def test_disk_filled_to_its_last_byte() -> None:
    """Nothing can be recorded any more: creates are refused with the reason, and what there is goes on and stays right."""
    with daemon_on("ext4", 128 * MB, "overlayfs") as (daemon, disk):
        daemon.docker("run", "-d", "--name", "old", "busybox", "sh", "-c", "while true; do echo line; sleep 0.01; done")
        with (disk.place / "ballast").open("wb", buffering=0) as ballast:
            chunk = bytes(MB)
            while chunk:
                try:
                    ballast.write(chunk)
                except OSError:
                    chunk = chunk[: len(chunk) // 2]
        refused = b""
        for number in range(200):
            done = daemon.docker("create", "--name", f"c{number}", "busybox", "true", check=None)
            if done.returncode:
                refused = done.stderr
                break
        assert b"space" in refused or b"full" in refused, refused
        assert daemon.docker("inspect", "-f", "{{.State.Running}}", "old").stdout == b"true\n"
        disk.free()
        assert daemon.docker("run", "--rm", "busybox", "echo", "again").stdout == b"again\n"
        daemon.kill()
        daemon.start()
        assert daemon.docker("inspect", "-f", "{{.State.Running}}", "old").stdout == b"true\n"
        daemon.docker("rm", "-f", "old")
        check_whole(daemon, "overlayfs")
        check_nothing_left_but(daemon, disk)


# ---------------------------------------------------------------- a disk that fails


def test_disk_that_fails_while_layers_are_unpacked(tmp_path: Path) -> None:
    """The storage's disk alone: the engine lives on without it, and with a sound one again after a restart."""
    with new_daemon("--storage-driver", "overlayfs") as daemon:
        daemon.root.mkdir(mode=0o700)
        place = daemon.root / "storage"
        place.mkdir(mode=0o700)
        with new_disk(place, "ext4", 256 * MB) as disk:
            try:
                daemon.start()
                daemon.api("POST", "/sampan/images/bootstrap")
                daemon.docker("create", "--name", "before", "busybox", "true")
                assert import_image(daemon, "large", layer_of(30, MB))[0] == 200
                subprocess.run(["sync", "-f", place], check=True)
                disk.copy(sound := tmp_path / "sound.img")
                disk.fail()
                done = daemon.docker("create", "--name", "on-it", "large", "true", check=None)
                assert done.returncode and (b"Input/output error" in done.stderr or b"Read-only" in done.stderr), done.stderr
                assert [c["Names"] for c in daemon.api("GET", "/containers/json?all=1")] == [["/before"]]
                assert "Traceback" not in daemon.log
            finally:
                end(daemon)
        with mounted(sound, place):
            try:
                daemon.start()
                assert daemon.docker("run", "--rm", "large", "ls", "/data/29").stdout == b"/data/29\n"
                daemon.docker("rm", "before")
                check_whole(daemon, "overlayfs")
            finally:
                end(daemon)


# ---------------------------------------------------------------- kills


def unpackers(daemon: Daemon) -> list[int]:
    """Give the children that unpack."""
    found = []
    for task in Path(f"/proc/{daemon.pid}/task").iterdir():
        for pid in (task / "children").read_text().split():
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if line.endswith(b"sampan.content.unpacker\0"):
                found.append(int(pid))
    return found


@contextmanager
def creating(daemon: Daemon, image: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `docker create` beside; it has ended afterwards."""
    process = subprocess.Popen(
        daemon.inside(["docker", "create", image, "true"]), env=daemon.client_environment(), pass_fds=(daemon.netns,),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.wait(30)
        process.communicate()


def files_below(directory: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(directory))


def test_the_unpacker_is_killed() -> None:
    with daemon_on("ext4", 384 * MB, "overlayfs") as (daemon, disk):
        kill_unpackers(daemon)
        check_nothing_left_but(daemon, disk)


def kill_unpackers(daemon: Daemon) -> None:
    assert import_image(daemon, "layer", layer_of(12_000, 3000))[0] == 200
    before = snapshots(daemon, "overlayfs")
    for files in (0, 500, 2000):
        with creating(daemon, "layer") as client:
            wait_until(lambda: bool(unpackers(daemon)), "an unpacker starts")
            (pid,) = unpackers(daemon)
            wait_until(lambda n=files: files_below(daemon.root / "storage") >= n, "it has written")
            os.kill(pid, signal.SIGKILL)
            _, told = client.communicate(timeout=30)
        assert client.returncode and b"unpacker ended with status -9" in told, told
        assert snapshots(daemon, "overlayfs") == before
        check_whole(daemon, "overlayfs")
    assert len(daemon.docker("run", "--rm", "layer", "ls", "/data").stdout.split()) == 12_000


@pytest.mark.parametrize(("driver", "kind"), DRIVERS)
def test_the_daemon_is_killed_while_it_unpacks(driver: str, kind: str) -> None:
    chance = random.Random()
    layer = layer_of(3000, 3000)
    with daemon_on(kind, 512 * MB, driver) as (daemon, disk):
        before = snapshots(daemon, driver)
        for _ in range(3):
            assert import_image(daemon, "layer", layer)[0] == 200
            with creating(daemon, "layer"):
                wait_until(lambda: bool(unpackers(daemon)), "an unpacker starts")
                (pid,) = unpackers(daemon)
                time.sleep(chance.uniform(0, 0.6))  # at any moment of the unpacking, and of the commit after it
                daemon.kill()
            wait_until(lambda p=pid: not Path(f"/proc/{p}").exists(), "the unpacker ends with the daemon")
            daemon.start()
            check_whole(daemon, driver)
            if made := daemon.docker("ps", "-aq").stdout.decode().split():  # the kill came after all of it
                daemon.docker("rm", *made)
            assert {found["Kind"] for found in snapshots(daemon, driver)} <= {"committed"}
            listing = daemon.docker("run", "--rm", "layer", "ls", "/data").stdout.split()
            assert len(listing) == 3000
            daemon.docker("rmi", "-f", "layer")
            assert snapshots(daemon, driver) == before
        check_nothing_left_but(daemon, disk)


# ---------------------------------------------------------------- a power cut


@pytest.mark.parametrize(("driver", "kind"), DRIVERS)
def test_what_was_committed_survives_a_power_cut(tmp_path: Path, driver: str, kind: str) -> None:
    """The disk as it is at one moment, without what was not yet written to it."""
    layer = layer_of(200, 20_000)
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        files = [member for member in tar if member.name.startswith("data/")]
        expected = {member.name: hashlib.sha256(tar.extractfile(member).read()).hexdigest() for member in files}
    with daemon_on(kind, 384 * MB, driver) as (daemon, disk):
        assert import_image(daemon, "layer", layer)[0] == 200
        assert daemon.api_raw("POST", "/sampan/images/layer/unpack")[0] == 200
        committed = snapshots(daemon, driver)
        end(daemon)
        disk.copy(after := tmp_path / "after.img")
        subprocess.run(["umount", disk.place], check=True)
        if kind == "btrfs":  # The kernel takes the copy for the disk that it remembers.
            subprocess.run(["btrfs", "device", "scan", "--forget"], check=True)
        try:
            with mounted(after, disk.place):
                try:
                    daemon.start()
                    check_whole(daemon, driver)
                    assert snapshots(daemon, driver) == committed
                    sums = daemon.docker("run", "--rm", "layer", "sh", "-c", "busybox sha256sum data/*").stdout.decode()
                    found = dict(reversed(line.split()) for line in sums.splitlines())
                    assert found == expected
                finally:
                    end(daemon)
        finally:
            if kind == "btrfs":
                subprocess.run(["btrfs", "device", "scan", "--forget"], check=True)
            subprocess.run(["mount", disk.device, disk.place], check=True)
