"""Published ports as a user of the docker client meets them: families, ranges, the proxy, and who may not come in."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator

import pytest

from compat.conftest import Client
from ground.waiting import wait_until
from sampan.linux import namespaces

HOST6, NEIGHBOUR6 = "2001:db8:7::1", "2001:db8:7::2"


def serve(client: Client, *options: str) -> str:
    """Start a web server that says `here`, and wait until it listens."""
    script = "mkdir /w; echo here > /w/index.html; exec httpd -f -p 80 -h /w"
    container = client.out("run", "-d", *options, "busybox", "sh", "-c", script)
    wait_until(lambda: b":80 " in client("exec", container, "netstat", "-ltn").stdout, "the server listens")
    return container


def fetch(client: Client, address: str, port: int) -> bytes:
    where = f"[{address}]" if ":" in address else address
    return client.daemon.run("curl", "-s", "-m", "3", f"http://{where}:{port}/", check=None).stdout


def ports_of(client: Client, container: str) -> dict[str, list[tuple[str, str]]]:
    told = json.loads(client.out("inspect", "-f", "{{json .NetworkSettings.Ports}}", container))
    return {port: [(item["HostIp"], item["HostPort"]) for item in items] for port, items in told.items() if items}


@pytest.fixture
def neighbour(client: Client) -> Iterator[int]:
    """Another host, on an IPv6 link to the daemon's."""
    netns = namespaces.new_netns()
    run = client.daemon.run
    try:
        run("ip", "link", "add", "wire6", "type", "veth", "peer", "name", "far")
        subprocess.run(client.daemon.inside(["ip", "link", "set", "far", "netns", f"/proc/{os.getpid()}/fd/{netns}"]),
                       check=True, pass_fds=(client.daemon.netns, netns))  # fmt: skip
        run("ip", "address", "add", f"{HOST6}/64", "dev", "wire6", "nodad")
        run("ip", "link", "set", "wire6", "up")
        for command in (f"ip address add {NEIGHBOUR6}/64 dev far nodad", "ip link set far up"):
            _there(netns, *command.split())
        wait_until(lambda: b" UP " in run("ip", "-o", "link", "show", "dev", "wire6").stdout, "the wire is up")
        yield netns
    finally:
        os.close(netns)
        run("ip", "link", "delete", "wire6", check=None)


def _there(netns: int, *command: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    words = ["nsenter", f"--net=/proc/self/fd/{netns}", *command]
    return subprocess.run(words, check=check, capture_output=True, pass_fds=(netns,), timeout=30)


def _fetch_from(netns: int, address: str, port: int) -> bytes:
    return _there(netns, "curl", "-s", "-m", "3", f"http://[{address}]:{port}/", check=False).stdout


def test_a_port_of_every_address_is_reached_over_ipv6(client: Client, neighbour: int) -> None:
    container = serve(client, "-p", "8090:80")
    assert fetch(client, "::1", 8090) == fetch(client, "127.0.0.1", 8090) == b"here\n"
    assert fetch(client, HOST6, 8090) == _fetch_from(neighbour, HOST6, 8090) == b"here\n"
    assert ports_of(client, container) == {"80/tcp": [("0.0.0.0", "8090"), ("::", "8090")]}
    client("rm", "-f", container)
    assert fetch(client, "::1", 8090) == b""


def test_loopback_is_for_the_host_alone(client: Client, neighbour: int) -> None:
    """Bites: the neighbour reaches a port that is published on the address it asks."""
    serve(client, "-p", "[::1]:8091:80", "-p", f"[{HOST6}]:8092:80")
    assert fetch(client, "::1", 8091) == b"here\n"
    assert fetch(client, "127.0.0.1", 8091) == b""
    assert _fetch_from(neighbour, HOST6, 8092) == b"here\n"
    assert _fetch_from(neighbour, HOST6, 8091) == b""
    _there(neighbour, "ip", "-6", "route", "add", "::1/128", "via", HOST6, "dev", "far")
    assert _fetch_from(neighbour, "::1", 8091) == b""


def test_the_proxys_own_port_is_closed_to_all(client: Client, neighbour: int) -> None:
    serve(client, "-p", "8093:80")
    port = int((client.daemon.state / "proxy-port").read_text())
    assert fetch(client, "::1", 8093) == b"here\n"
    for command in (client.daemon.run, lambda *words, check: _there(neighbour, *words, check=check)):
        refused = command("curl", "-s", "-m", "3", f"http://[{HOST6}]:{port}/", check=None)
        assert refused.returncode == 7, "curl: failed to connect"


def test_udp_over_ipv6(client: Client) -> None:
    container = client.out("run", "-d", "-p", "5390:53/udp", "-p", "5391:54/udp", "busybox", "sleep", "1000")
    inside = os.open(f"/proc/{client.out('inspect', '-f', '{{.State.Pid}}', container)}/ns/net", os.O_RDONLY)

    def bound(port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(5)
        sock.bind(("", port))
        return sock

    def asking() -> socket.socket:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.settimeout(5)
        return sock

    try:
        servers = {port: namespaces.call_in_netns(inside, lambda port=port: bound(port)) for port in (53, 54)}
    finally:
        os.close(inside)
    with servers[53] as one, servers[54] as two, namespaces.call_in_netns(client.daemon.netns, asking) as question:
        for server, port in ((one, 5390), (two, 5391), (one, 5390)):  # one client, two ports: each to its own
            for size in (5, 60000):
                question.sendto(bytes(size), ("::1", port))
                data, peer = server.recvfrom(65536)
                assert len(data) == size
                server.sendto(b"answer", peer)
                assert question.recvfrom(100)[:2] == (b"answer", ("::1", port, 0, 0))


def test_one_port_of_a_range(client: Client) -> None:
    """Bites: the third finds none."""
    first, second = (serve(client, "-p", "8094-8095:80") for _ in range(2))
    assert [ports_of(client, name)["80/tcp"][0][1] for name in (first, second)] == ["8094", "8095"]
    assert fetch(client, "127.0.0.1", 8095) == b"here\n"
    refused = client("run", "--rm", "-p", "8094-8095:80", "busybox", "true", check=125)
    assert b"8094-8095 failed: all ports are already allocated" in refused.stderr


def test_the_same_chosen_port_on_two_addresses(client: Client) -> None:
    container = serve(client, "-p", "127.0.0.1::80", "-p", "[::1]::80")
    (four, number), (six, same) = ports_of(client, container)["80/tcp"]
    assert ((four, six), number) == (("127.0.0.1", "::1"), same)
    assert fetch(client, "::1", int(number)) == b"here\n"


def test_an_address_that_the_host_does_not_have(client: Client) -> None:
    refused = client("run", "--rm", "-p", "192.0.2.55:8096:80", "busybox", "true", check=125)
    assert b"192.0.2.55:8096: bind: cannot assign requested address" in refused.stderr


def test_a_conflict_leaves_nothing_and_is_told_before_anything_is_done(client: Client) -> None:
    serve(client, "-p", "8097:80")
    refused = client("run", "-d", "--name", "second", "-p", "8098:80", "-p", "127.0.0.1:8097:81", "busybox", "sleep", "9", check=125)
    assert b"Bind for 127.0.0.1:8097 failed: port is already allocated" in refused.stderr
    client("rm", "second")
    serve(client, "-p", "8098:80")


def test_sctp_is_translated_and_not_passed_on(client: Client) -> None:
    container = client.out("run", "-d", "-p", "8099:99/sctp", "busybox", "sleep", "1000")
    assert ports_of(client, container) == {"99/sctp": [("0.0.0.0", "8099")]}
    assert re.search(rb"\b(sctp|132) \. 8099", client.daemon.run("nft", "list", "ruleset").stdout)
    refused = client("run", "--rm", "-p", "[::1]:8100:99/sctp", "busybox", "true", check=125)
    assert b"the container has no IPv6 address" in refused.stderr
