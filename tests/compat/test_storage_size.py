"""`docker run --storage-opt size=…`: what Docker's documentation promises, with a loop file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ground.daemon import Daemon, new_daemon
from ground.leaks import check_nothing_left
from sampan.linux import loops

SIZE = ("--storage-opt", "size=16M")


@pytest.fixture
def limiting() -> Iterator[Daemon]:
    with new_daemon() as daemon:
        config = daemon.base / "config.toml"
        config.write_text('storage-driver = "overlayfs"\n[storage.overlayfs]\nquota = "loop"\n')
        daemon.arguments += ["--config", str(config)]
        daemon.start()
        daemon.api("POST", "/sampan/images/bootstrap")
        yield daemon


def disks(daemon: Daemon) -> list[str]:
    """Give what limited containers have on the host: files, mounts, devices."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(daemon.root) in line]
    devices = [device.path for device in loops.devices() if device.file.startswith(str(daemon.root))]
    files = [str(path) for path in (daemon.root / "storage/overlayfs/disks").iterdir()]
    return [*mounts, *devices, *files]


def check_gone(daemon: Daemon) -> None:
    """The kernel may take a moment to let go of a device."""
    deadline = time.monotonic() + 5
    while found := disks(daemon):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def test_a_container_writes_no_more_than_its_size(limiting: Daemon) -> None:
    docker = limiting.docker
    name = ("--name", "limited", "--network", "none")
    done = docker("run", *name, *SIZE, "busybox", "sh", "-c", "df -m /; dd if=/dev/zero of=/big bs=1M count=32", check=1)
    assert b"No space left on device" in done.stderr
    assert 12 <= int(done.stdout.splitlines()[-1].split()[1]) <= 16
    assert len(disks(limiting)) == 3
    docker("rm", "limited")
    check_gone(limiting)

    # Its daemon is killed while it runs: the next one finds it, and what it wrote.
    docker("run", "-d", *name, *SIZE, "busybox", "sh", "-c", "echo kept >/file; sleep 60")
    limiting.kill()
    limiting.start()
    assert len(disks(limiting)) == 3
    assert docker("exec", "limited", "cat", "/file").stdout == b"kept\n"
    assert b"No space left" in docker("exec", "limited", "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=32", check=1).stderr
    docker("exec", "limited", "rm", "/big")
    docker("restart", "-t", "0", "limited")
    assert docker("exec", "limited", "cat", "/file").stdout == b"kept\n"
    limiting.stop()
    assert len(disks(limiting)) == 2  # the container's own hold on it
    limiting.start()

    # Free ones are as ever, and what is too small is refused.
    docker("run", "--rm", "--network", "none", "busybox", "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=32")
    done = docker("create", "--storage-opt", "size=100k", "busybox", check=1)
    assert b"at least 1048576" in done.stderr

    docker("rm", "-f", "limited")
    check_gone(limiting)
    check_nothing_left(limiting)
    limiting.stop()
