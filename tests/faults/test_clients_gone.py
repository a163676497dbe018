"""Clients that go away while their containers start and while these join and leave networks: nothing stays half done."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest

from ground.daemon import Daemon
from ground.leaks import check_nothing_left
from ground.waiting import wait_until

DELAYS = [0.004 * step for step in range(1, 8)]
"""Seconds after which the client goes: a start takes some thirty milliseconds."""


def ask_and_go(daemon: Daemon, delay: float, path: str, body: Any = None) -> None:
    """Send a request, and close the connection before the answer."""
    data = json.dumps(body).encode() if body is not None else b""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.socket))
        client.sendall(head.encode() + data)
        time.sleep(delay)


def test_removed_while_it_starts(own_daemon: Daemon) -> None:
    """Whoever started it is gone; `rm -f` waits for the start, and then does what it was asked for."""
    daemon = own_daemon
    networks = ["--network", "one", "--network", "two"]
    for name in ("one", "two"):
        daemon.api("POST", "/networks/create", {"Name": name})
    for delay in DELAYS:
        daemon.docker("create", "--name", "cc", "-p", "8098:80", *networks, "busybox", "sleep", "600")
        ask_and_go(daemon, delay, "/containers/cc/start")
        daemon.api("DELETE", "/containers/cc?force=1")
    check_nothing_left(daemon)


@pytest.mark.parametrize("action", ["connect", "disconnect"])
def test_client_gone_while_a_container_joins_or_leaves(own_daemon: Daemon, action: str) -> None:
    daemon = own_daemon
    daemon.api("POST", "/networks/create", {"Name": "one"})
    daemon.docker("run", "-d", "--name", "cc", "-p", "8098:80", "busybox", "sleep", "600")

    def is_done() -> bool:
        """What is recorded, what is up and what is in the container is the same, and as asked."""
        told = daemon.api("GET", "/containers/cc/json")["NetworkSettings"]["Networks"]
        inside = len(daemon.docker("exec", "cc", "ls", "/sys/class/net").stdout.split()) - 1
        return inside == len(told) == sum(bool(item["EndpointID"]) for item in told.values()) == 1 + (action == "connect")

    for delay in DELAYS:
        if action == "disconnect":
            daemon.docker("network", "connect", "one", "cc")
        ask_and_go(daemon, delay, f"/networks/one/{action}", {"Container": "cc"})
        wait_until(is_done, f"{action} is done")
        if action == "connect":
            daemon.docker("network", "disconnect", "one", "cc")
    daemon.docker("rm", "-f", "cc")
    check_nothing_left(daemon)
