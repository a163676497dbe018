"""A port published on 127.0.0.1 is for the host alone (A24): a neighbour on the same wire gets nothing."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest

from ground.daemon import Daemon
from sampan.linux import namespaces

ETH_P_IP = 0x0800
HOST, NEIGHBOUR = "10.99.7.1", "10.99.7.2"


@pytest.fixture
def neighbour(daemon: Daemon) -> Iterator[int]:
    """Another host: a network namespace with a link to the daemon's."""
    netns = namespaces.new_netns()
    try:
        daemon.run("ip", "link", "add", "wire", "type", "veth", "peer", "name", "far")
        subprocess.run(daemon.inside(["ip", "link", "set", "far", "netns", f"/proc/{os.getpid()}/fd/{netns}"]),
                       check=True, pass_fds=(daemon.netns, netns))  # fmt: skip
        daemon.run("ip", "address", "add", f"{HOST}/24", "dev", "wire")
        daemon.run("ip", "link", "set", "wire", "up")
        for command in (f"ip address add {NEIGHBOUR}/24 dev far", "ip link set lo up", "ip link set far up"):
            _there(netns, command)
        yield netns
    finally:
        os.close(netns)
        daemon.run("ip", "link", "delete", "wire", check=None)


def _there(netns: int, command: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    words = ["nsenter", f"--net=/proc/self/fd/{netns}", *command.split()]
    return subprocess.run(words, check=check, capture_output=True, pass_fds=(netns,), timeout=30)


def _send_loopback_by(netns: int, way: str) -> None:
    """Have packets to 127.0.0.1 leave the machine; as long as that address is the kernel's own there they don't."""
    _there(netns, "sysctl -q -w net.ipv4.conf.all.route_localnet=1")
    _there(netns, "ip route flush table local to root 127.0.0.0/8")
    _there(netns, f"ip route add 127.0.0.1/32 {way}")
    assert b" dev lo" not in _there(netns, "ip route get 127.0.0.1").stdout


def _fetch(netns: int, address: str, port: int) -> bytes:
    return _there(netns, f"curl -s -m 1 http://{address}:{port}/", check=False).stdout


def _answers_from_loopback(netns: int, way: str) -> int:
    """Ask for 127.0.0.1:8080 by that way, and count the frames that come back from there. The kernel that asked would
    drop them as impossible; an attacker's own stack would not.
    """
    _send_loopback_by(netns, way)
    wire = namespaces.call_in_netns(netns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP)))
    with wire:
        assert _fetch(netns, "127.0.0.1", 8080) == b""
        wire.setblocking(False)
        found = 0
        with suppress(BlockingIOError):
            while packet := wire.recvfrom(65535):
                found += packet[1][2] == socket.PACKET_HOST and packet[0][12:16] == socket.inet_aton("127.0.0.1")
    return found


def test_neighbour_does_not_reach_what_is_published_on_loopback(daemon: Daemon, neighbour: int) -> None:
    """Bites: the port published on all addresses is reached by the same neighbour."""
    serve = "mkdir /w; echo here > /w/index.html; httpd -f -h /w -p 80"
    daemon.docker("run", "-d", "--name", "web", "-p", "127.0.0.1:8080:80", "-p", "8081:80", "busybox", "sh", "-c", serve)
    address = daemon.api("GET", "/containers/web/json")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    assert daemon.run("curl", "-s", "--retry", "5", "--retry-connrefused", "http://127.0.0.1:8080/").stdout == b"here\n"
    assert _fetch(neighbour, HOST, 8081) == b"here\n"
    assert _fetch(neighbour, HOST, 8080) == b""
    _there(neighbour, f"ip route add {address}/32 via {HOST}")
    assert _fetch(neighbour, address, 80) == b""
    assert _answers_from_loopback(neighbour, f"via {HOST} dev far src {NEIGHBOUR}") == 0


def test_a_container_does_not_reach_what_is_published_on_loopback(daemon: Daemon) -> None:
    """Not even one that has taken its own network over. Bites: it reaches the port that is published for all."""
    serve = "mkdir /w; echo here > /w/index.html; httpd -f -h /w -p 80"
    daemon.docker("run", "-d", "--name", "web", "-p", "127.0.0.1:8080:80", "-p", "[::1]:8080:80", "-p", "8081:80", "busybox",
                  "sh", "-c", serve)  # fmt: skip
    assert daemon.run("curl", "-s", "--retry", "5", "--retry-connrefused", "http://127.0.0.1:8080/").stdout == b"here\n"
    daemon.docker("run", "-d", "--name", "evil", "busybox", "sleep", "1000")
    told = daemon.api("GET", "/containers/evil/json")
    gateway = told["NetworkSettings"]["Networks"]["bridge"]["Gateway"]
    netns = os.open(f"/proc/{told['State']['Pid']}/ns/net", os.O_RDONLY)
    try:
        assert _fetch(netns, gateway, 8081) == b"here\n"
        assert _fetch(netns, gateway, 8080) == b""
        address = told["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        assert _answers_from_loopback(netns, f"via {gateway} dev eth0 src {address}") == 0
    finally:
        os.close(netns)
