"""Networks and published ports."""

from __future__ import annotations

import json
import os
import socket

import pytest

from compat.conftest import Client
from sampan.linux import namespaces


def fetch(client: Client, url: str) -> bytes:
    """Get a page from the daemon's host."""
    return client.daemon.run("curl", "-s", "--max-time", "5", url).stdout


def serve(client: Client, *options: str, port: int = 80) -> str:
    """Start a little web server and wait until it listens."""
    container = client.out("run", "-d", *options, "busybox", "httpd", "-f", "-p", str(port), "-h", "/etc")
    listening = f"while ! netstat -ltn | grep -q ':{port} '; do usleep 10000; done"
    client("exec", container, "sh", "-c", listening)
    return container


def test_a_published_port_is_reached_from_the_host_and_from_containers(client: Client) -> None:
    container = serve(client, "-p", "8080:80")
    for address in ("127.0.0.1", "172.31.77.1"):
        assert b"root:x:0:0" in fetch(client, f"http://{address}:8080/passwd")
    own = client.out("inspect", "-f", "{{.NetworkSettings.IPAddress}}", container)
    for url in (f"http://{own}/passwd", "http://172.31.77.1:8080/passwd"):
        assert client.out("run", "--rm", "busybox", "wget", "-q", "-O", "-", url).startswith("root:x:0:0")
    # its own published port, by way of the host
    assert client.out("exec", container, "wget", "-q", "-O", "-", "http://172.31.77.1:8080/passwd").startswith("root:x:0:0")
    assert client.out("port", container, "80") == "0.0.0.0:8080\n[::]:8080"
    assert "0.0.0.0:8080->80/tcp" in client.out("ps")


def test_a_published_port_on_one_address(client: Client) -> None:
    serve(client, "-p", "127.0.0.1:8081:80")
    assert b"root" in fetch(client, "http://127.0.0.1:8081/passwd")
    client.daemon.run("curl", "-s", "--max-time", "2", "http://172.31.77.1:8081/passwd", check=7)


def test_a_chosen_port_is_told(client: Client) -> None:
    container = serve(client, "-p", "80")
    told = json.loads(client.out("inspect", "-f", "{{json .NetworkSettings.Ports}}", container))
    assert b"root" in fetch(client, f"http://127.0.0.1:{told['80/tcp'][0]['HostPort']}/passwd")


def test_udp(client: Client) -> None:
    client("run", "-d", "--name", "uu", "-p", "5300:53/udp", "busybox", "sleep", "60")
    pid = client.out("inspect", "-f", "{{.State.Pid}}", "uu")

    def open_socket() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(5)
        return sock

    def serve_udp() -> socket.socket:
        sock = open_socket()
        sock.bind(("0.0.0.0", 53))
        return sock

    inside = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        server = namespaces.call_in_netns(inside, serve_udp)
    finally:
        os.close(inside)
    with server, namespaces.call_in_netns(client.daemon.netns, open_socket) as asking:
        for address in ("172.31.77.1", "127.0.0.1"):
            asking.sendto(b"question", (address, 5300))
            question, peer = server.recvfrom(100)
            server.sendto(question + b" answered", peer)
            assert asking.recvfrom(100) == (b"question answered", (address, 5300))


def test_a_port_that_is_taken(client: Client) -> None:
    first = serve(client, "-p", "8082:80")
    refused = client("run", "--name", "second", "-p", "8082:80", "busybox", "true", check=125)
    assert b"8082" in refused.stderr
    assert b"already" in refused.stderr
    client("rm", "second")
    client("rm", "-f", first)
    client("run", "--rm", "-p", "8082:80", "busybox", "true")


def test_a_port_that_a_program_of_the_host_has(client: Client) -> None:
    def listen() -> socket.socket:
        return socket.create_server(("0.0.0.0", 8083))

    with namespaces.call_in_netns(client.daemon.netns, listen):
        refused = client("run", "--rm", "-p", "8083:80", "busybox", "true", check=125)
        assert b"8083" in refused.stderr
    client("run", "--rm", "-p", "8083:80", "busybox", "true")


def test_none_has_a_loopback_only(client: Client) -> None:
    lines = client.out("run", "--rm", "--network", "none", "busybox", "ip", "-o", "link").splitlines()
    assert len(lines) == 1
    assert "LOOPBACK,UP" in lines[0]


def test_host_is_the_daemons_own_network(client: Client) -> None:
    inside = client.out("run", "--rm", "--network", "host", "busybox", "readlink", "/proc/self/ns/net")
    assert inside == f"net:[{os.fstat(client.daemon.netns).st_ino}]"
    client("run", "-d", "--name", "srv", "--network", "host", "--expose", "80", "busybox", "sleep", "600")
    assert client.out("inspect", "srv", "--format", "{{json .NetworkSettings.Ports}}") == "{}"
    assert client.out("ps", "--format", "{{.Ports}}") == ""


def test_a_containers_network_can_be_shared(client: Client) -> None:
    server = serve(client)
    get = ("busybox", "wget", "-q", "-O", "-", "http://127.0.0.1/group")
    assert client.out("run", "--rm", "--network", f"container:{server}", *get).startswith("root")
    refused = client("run", "--rm", "--network", "container:absent", "busybox", "true", check=125)
    assert b"No such container: absent" in refused.stderr


def test_addresses_differ_and_come_back(client: Client) -> None:
    show = ("busybox", "ip", "-4", "-o", "addr", "show", "dev", "eth0")
    client("run", "-d", "--name", "aa", "busybox", "sleep", "60")
    client("run", "-d", "--name", "bb", "busybox", "sleep", "60")
    address = "{{.NetworkSettings.IPAddress}}"
    one, two = client.out("inspect", "-f", address, "aa"), client.out("inspect", "-f", address, "bb")
    assert one != two
    assert all(item.startswith("172.31.77.") for item in (one, two))
    client("exec", "aa", "ping", "-c", "1", "-w", "5", two)
    assert "172.31.77." in client.out("run", "--rm", *show)


def test_listing_and_inspecting(client: Client) -> None:
    names = client.out("network", "ls", "--format", "{{.Name}} {{.Driver}}").splitlines()
    assert {"bridge bridge", "host host", "none null"} == set(names) or {"bridge bridge", "host host", "none none"} == set(names)
    container = client.out("run", "-d", "busybox", "sleep", "60")
    told = json.loads(client.out("network", "inspect", "bridge"))[0]
    assert told["IPAM"]["Config"][0]["Subnet"] == "172.31.77.0/24"
    assert list(told["Containers"]) == [container]


def test_an_unknown_network(client: Client) -> None:
    refused = client("run", "--rm", "--network", "absent", "busybox", "true", check=125)
    assert b"network absent not found" in refused.stderr


@pytest.mark.parametrize("wanted", ["out", "back"])
def test_half_closed_connections(client: Client, wanted: str) -> None:
    """A published port carries a half-close in both directions."""
    client("run", "-d", "--name", "hh", "-p", "8084:7", "busybox", "nc", "-l", "-p", "7", "-e", "cat")
    client("exec", "hh", "sh", "-c", "while ! netstat -ltn | grep -q ':7 '; do usleep 10000; done")

    def talk() -> bytes:
        with socket.create_connection(("127.0.0.1" if wanted == "out" else "172.31.77.1", 8084), timeout=5) as sock:
            sock.sendall(b"abc" * 1000)
            sock.shutdown(socket.SHUT_WR)
            got = b""
            while part := sock.recv(4096):
                got += part
            return got

    assert namespaces.call_in_netns(client.daemon.netns, talk) == b"abc" * 1000

