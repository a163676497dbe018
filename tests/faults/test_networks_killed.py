"""SIGKILL of the daemon while containers join and leave networks, and while networks come and go."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from typing import Any

import pytest

from ground.daemon import Daemon
from ground.leaks import check_nothing_left

DELAYS = [0.004 * step for step in range(1, 8)]
"""Seconds after which the daemon dies: a connect or a create takes some ten milliseconds."""


def ask(daemon: Daemon, method: str, path: str, body: Any = None) -> None:
    """Ask a daemon that may die meanwhile."""
    try:
        daemon.api_raw(method, path, body)
    except (OSError, ValueError, IndexError):
        pass


def kill_while(daemon: Daemon, delay: float, *requests: tuple[str, str, Any]) -> None:
    """Kill the daemon while requests, one after the other, are under way; start another."""
    asking = threading.Thread(target=lambda: [ask(daemon, *request) for request in requests])
    asking.start()
    time.sleep(delay)
    daemon.kill()
    asking.join()
    daemon.start()


def links(daemon: Daemon, *options: str) -> set[str]:
    done = subprocess.run(
        daemon.inside(["ip", "-j", "link", "show", *options]), check=True, capture_output=True, pass_fds=(daemon.netns,)
    )
    return {link["ifname"] for link in json.loads(done.stdout or b"[]") if link}


def interfaces(daemon: Daemon, container: str) -> int:
    """Count a container's links besides the loopback."""
    return len(daemon.docker("exec", container, "ls", "/sys/class/net").stdout.split()) - 1


def default_routes(daemon: Daemon, container: str) -> int:
    lines = daemon.docker("exec", container, "ip", "route").stdout.splitlines()
    return sum(line.startswith(b"default") for line in lines)


@pytest.mark.parametrize("action", ["connect", "disconnect"])
def test_killed_while_a_container_joins_or_leaves(own_daemon: Daemon, action: str) -> None:
    daemon = own_daemon
    for name in ("one", "two"):
        daemon.api("POST", "/networks/create", {"Name": name})
    networks = ["one", "two"] if action == "disconnect" else []
    arguments = [part for name in networks for part in ("--network", name)]
    daemon.docker("run", "-d", "--name", "cc", "-p", "8097:80", *arguments, "busybox", "sleep", "600")
    for delay in DELAYS:
        kill_while(daemon, delay, *(("POST", f"/networks/{name}/{action}", {"Container": "cc"}) for name in ("one", "two")))
        told = daemon.api("GET", "/containers/cc/json")["NetworkSettings"]["Networks"]
        up = [name for name, endpoint in told.items() if endpoint["EndpointID"]]
        assert interfaces(daemon, "cc") == len(up)
        if up:
            daemon.docker("exec", "cc", "ping", "-c", "1", "-w", "5", told[up[0]]["Gateway"])
        undo = "disconnect" if action == "connect" else "connect"
        for name in ("one", "two"):
            there = name in told if action == "connect" else name not in up
            if there:
                daemon.api("POST", f"/networks/{name}/{undo}", {"Container": "cc"})
        assert default_routes(daemon, "cc") == 1
        assert daemon.docker("port", "cc").stdout.startswith(b"80/tcp -> 0.0.0.0:8097")
    daemon.docker("rm", "-f", "cc")
    for name in ("one", "two"):
        daemon.docker("network", "rm", name)
    check_nothing_left(daemon)
    daemon.stop()


def test_killed_while_networks_come_and_go(own_daemon: Daemon) -> None:
    daemon = own_daemon
    before = links(daemon, "type", "bridge")
    for delay in DELAYS:
        come_and_go = [
            request
            for name in ("one", "two")
            for request in (("POST", "/networks/create", {"Name": name, "EnableIPv6": True}), ("DELETE", f"/networks/{name}", None))
        ]
        kill_while(daemon, delay, *come_and_go)
        left = daemon.api("GET", '/networks?filters={"type":["custom"]}')
        assert len(links(daemon, "type", "bridge")) == len(before) + len(left)
        for network in left:  # one that a crash left is whole
            daemon.docker("run", "--rm", "--network", network["Name"], "busybox", "true")
            daemon.api("DELETE", f"/networks/{network['Id']}")
    assert links(daemon, "type", "bridge") == before
    check_nothing_left(daemon)
    daemon.stop()
