"""SIGKILL of the daemon while it starts a container whose /dev/shm is a mount of the host: the mount doesn't stay."""

from __future__ import annotations

import socket

import pytest

from ground.daemon import Daemon
from ground.leaks import check_nothing_left
from ground.waiting import wait_until
from sampan.linux.mounts import parse_mountinfo


def shared(daemon: Daemon) -> list[str]:
    return [mount.target for mount in parse_mountinfo() if mount.target.startswith(f"{daemon.state}/containers/")]


def ask_start(daemon: Daemon, container: str) -> socket.socket:
    """Ask for a start and don't wait for it."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(daemon.socket))
    sock.sendall(f"POST /containers/{container}/start HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    return sock


@pytest.mark.parametrize("afterwards", ["remove", "start"])
def test_a_start_cut_off_once_it_is_mounted(own_daemon: Daemon, afterwards: str) -> None:
    daemon = own_daemon
    host = {"IpcMode": "shareable", "ShmSize": 1 << 20}
    for _ in range(3):
        one = daemon.api("POST", "/containers/create", {"Image": "busybox", "Cmd": ["sleep", "60"], "HostConfig": host})["Id"]
        with ask_start(daemon, one):
            wait_until(lambda: bool(shared(daemon)), "the daemon has mounted it")
            daemon.kill()
        assert shared(daemon) == [f"{daemon.state}/containers/{one}/shm"], "the kill came in between"
        daemon.start()
        if afterwards == "start" and daemon.api("GET", f"/containers/{one}/json")["State"]["Status"] != "running":
            daemon.api("POST", f"/containers/{one}/start")
        daemon.api("DELETE", f"/containers/{one}?force=1")
        assert shared(daemon) == []
    check_nothing_left(daemon)
