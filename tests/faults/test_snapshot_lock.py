"""The root of a container is mounted once: by its shim's lock, which outlives the daemon and goes with the shim."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from ground.daemon import Daemon
from sampan.linux.mounts import Mount, locked, open_root


def the_lock(daemon: Daemon) -> Path:
    """Give the lock of the only container's snapshot, the newest one."""
    snapshots = daemon.root / "storage/overlayfs/snapshots"
    return max(snapshots.iterdir(), key=lambda each: int(each.name)) / "work"


def is_held(lock: Path) -> bool:
    fd = os.open(lock, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def test_the_shim_holds_the_lock_over_the_death_of_the_daemon(own_daemon: Daemon) -> None:
    daemon = own_daemon
    daemon.docker("run", "-d", "--name", "one", "busybox", "sh", "-c", "trap exit TERM; while true; do usleep 1000; done")
    lock = the_lock(daemon)
    assert is_held(lock)
    daemon.kill()
    assert is_held(lock)
    with pytest.raises(OSError, match="mounted by another container or process"), open_root([Mount("bind", "/", lock=str(lock))]):
        pass
    daemon.start()
    assert is_held(lock)
    daemon.docker("exec", "one", "true")
    daemon.docker("stop", "one")
    assert not is_held(lock)
    daemon.docker("start", "one")
    assert is_held(lock)
    daemon.docker("rm", "-f", "one")
    assert not lock.exists()


@pytest.mark.parametrize("has_run", [True, False])
def test_a_snapshot_in_use_is_not_started(daemon: Daemon, has_run: bool) -> None:
    """By the shim, which mounts it; the daemon only looks, for who is who in one that ran before."""
    daemon.docker("create", "--name", "one", "busybox", "true")
    if has_run:
        daemon.docker("start", "-a", "one")
    with locked([Mount("bind", "/", lock=str(the_lock(daemon)))]):
        refused = daemon.docker("start", "-a", "one", check=None)
    assert refused.returncode != 0
    assert b"its root file system is mounted by another container or process" in refused.stderr
    daemon.docker("start", "-a", "one")
    assert daemon.docker("inspect", "-f", "{{.State.ExitCode}}{{.State.Error}}", "one").stdout == b"0\n"


def test_a_start_right_after_an_exit_finds_the_lock_free(daemon: Daemon) -> None:
    daemon.docker("create", "--name", "one", "busybox", "sh", "-c", "echo more >>/file")
    for _ in range(10):
        daemon.api("POST", "/containers/one/start")
        assert daemon.api("POST", "/containers/one/wait")["StatusCode"] == 0
    assert daemon.api("GET", "/containers/one/json")["State"]["Error"] == ""
    lock = the_lock(daemon)
    assert not is_held(lock)
    assert (lock.parent / "fs/file").read_text() == "more\n" * 10
