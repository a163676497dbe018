"""Names of containers, asked as programs in containers ask them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from compat.conftest import Client
from ground import dns
from ground.daemon import Daemon
from ground.netd import netds
from ground.waiting import wait_until
from sampan.linux.namespaces import call_in_netns


@pytest.fixture
def front(client: Client) -> Iterator[Client]:
    """A network with names."""
    client("network", "create", "front")
    yield client
    for container in client.out("ps", "-aq").split():
        client("rm", "-f", container)
    client("network", "rm", "front")


def look_up(client: Client, container: str, name: str, kind: str = "A") -> list[str]:
    """Ask from a container's network, and give the answer's data."""
    return ask(client.daemon, container, name, kind)


def ask(daemon: Daemon, container: str, name: str, kind: str = "A") -> list[str]:
    pid = daemon.api("GET", f"/containers/{container}/json")["State"]["Pid"]
    netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return call_in_netns(netns, lambda: dns.look_up(name, kind))
    finally:
        os.close(netns)


def test_containers_find_each_other(front: Client) -> None:
    client = front
    web = client.out("run", "-d", "--name", "web", "--network", "front", "--network-alias", "www", "-h", "host1", "busybox", "sleep", "60")
    client("run", "-d", "--name", "db", "--network", "front", "busybox", "sleep", "60")
    address = client.out("inspect", "-f", "{{.NetworkSettings.Networks.front.IPAddress}}", web)
    for name in ("web", "www", "host1", web[:12], "web.front"):
        assert look_up(client, "db", name) == [address]
        client("exec", "db", "ping", "-c", "1", "-w", "5", name)
    assert look_up(client, "db", "db") == [client.out("inspect", "-f", "{{.NetworkSettings.Networks.front.IPAddress}}", "db")]
    reverse = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
    assert look_up(client, "db", reverse, "PTR") == ["web.front."]
    assert f"Address: {address}" in client.out("exec", "db", "nslookup", "-type=a", "web")
    client("rename", "web", "site")
    assert look_up(client, "db", "site") == [address]
    client("rm", "-f", "site")
    client("exec", "db", "ping", "-c", "1", "-w", "2", "site", check=1)


def test_names_come_and_go_with_a_network(front: Client) -> None:
    client = front
    client("run", "-d", "--name", "web", "--network", "front", "busybox", "sleep", "60")
    client("run", "-d", "--name", "late", "busybox", "sleep", "60")
    assert "127.0.0.11" not in client.out("exec", "late", "cat", "/etc/resolv.conf")
    client("network", "connect", "--alias", "other", "front", "late")
    assert client.out("exec", "late", "cat", "/etc/resolv.conf").splitlines()[2:4] == ["nameserver 127.0.0.11", "options ndots:0"]
    client("exec", "late", "ping", "-c", "1", "-w", "5", "web")
    client("exec", "web", "ping", "-c", "1", "-w", "5", "other")
    client("network", "disconnect", "front", "late")
    client("exec", "web", "ping", "-c", "1", "-w", "2", "other", check=1)


def test_links_are_names_for_one_container(front: Client) -> None:
    client = front
    client("run", "-d", "--name", "web", "--network", "front", "busybox", "sleep", "60")
    client("run", "-d", "--name", "linked", "--network", "front", "--link", "web:database", "busybox", "sleep", "60")
    client("run", "-d", "--name", "other", "--network", "front", "busybox", "sleep", "60")
    assert look_up(client, "linked", "database") == look_up(client, "other", "web")
    client("exec", "other", "ping", "-c", "1", "-w", "2", "database", check=1)
    client("rm", "-f", "web")
    client("run", "-d", "--name", "filler", "--network", "front", "busybox", "sleep", "60")  # takes the address
    client("run", "-d", "--name", "web", "--network", "front", "busybox", "sleep", "60")
    assert look_up(client, "linked", "database") == look_up(client, "other", "web"), "a container made anew is linked as well"


def test_a_link_to_a_container_that_comes_later_or_is_named_by_its_id(front: Client) -> None:
    client = front
    client("run", "-d", "--name", "early", "--network", "front", "--link", "late:there", "busybox", "sleep", "60")
    late = client.out("run", "-d", "--name", "late", "--network", "front", "busybox", "sleep", "60")
    assert look_up(client, "early", "there") == look_up(client, "early", "late")
    client("run", "-d", "--name", "third", "--network", "front", "--link", f"{late}:there", "busybox", "sleep", "60")
    assert look_up(client, "third", "there") == look_up(client, "early", "late")


def test_the_daemons_host_answers_for_the_world(front: Client) -> None:
    client = front
    client("run", "-d", "--name", "asks", "--network", "front", "--dns", "172.31.77.1", "busybox", "sleep", "60")

    def reply(query: dns.DNSRecord, transport: str) -> bytes:
        answer = query.reply()
        answer.add_answer(*dns.RR.fromZone(f"{query.q.qname} 60 A 203.0.113.77"))
        return bytes(answer.pack())

    server = call_in_netns(client.daemon.netns, lambda: dns.World("172.31.77.1", reply))
    try:
        assert look_up(client, "asks", "example.org") == ["203.0.113.77"]
        assert "203.0.113.77" in client.out("exec", "asks", "nslookup", "-type=a", "example.org")
    finally:
        server.close()


def test_an_edited_resolv_conf_is_kept(front: Client) -> None:
    client = front
    client("run", "-d", "--name", "edits", "--network", "front", "--dns-search", "example.org", "busybox", "sleep", "60")
    assert "search example.org\n" in client.out("exec", "edits", "cat", "/etc/resolv.conf") + "\n"
    client("restart", "-t", "0", "edits")
    assert "search example.org" in client.out("exec", "edits", "cat", "/etc/resolv.conf")
    client("exec", "edits", "sh", "-c", "echo nameserver 192.0.2.53 > /etc/resolv.conf")
    client("restart", "-t", "0", "edits")
    assert client.out("exec", "edits", "cat", "/etc/resolv.conf") == "nameserver 192.0.2.53"


def test_names_survive_daemon_and_netd(own_daemon: Daemon) -> None:
    daemon = own_daemon
    daemon.docker("network", "create", "front")
    for name in ("web", "db"):
        daemon.docker("run", "-d", "--name", name, "--network", "front", "busybox", "sleep", "1000")
    pid = daemon.api("GET", "/containers/db/json")["State"]["Pid"]
    netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def found() -> list[str]:
        return call_in_netns(netns, lambda: dns.look_up("web"))

    (address,) = found()
    (netd,) = netds(daemon.state)
    daemon.kill()
    assert found() == [address]
    daemon.start()
    assert (found(), netds(daemon.state)) == ([address], [netd])
    os.kill(netd, signal.SIGKILL)
    wait_until(lambda: netds(daemon.state) not in ([], [netd]), "another sampan-netd")
    assert found() == [address]
    daemon.docker("stop", "-t", "0", "web")
    daemon.docker("exec", "db", "ping", "-c", "1", "-w", "2", "web", check=1)
    daemon.docker("start", "web")
    daemon.docker("exec", "db", "ping", "-c", "1", "-w", "5", "web")
    os.close(netns)
    daemon.docker("rm", "-f", "web", "db")
    daemon.docker("network", "rm", "front")
    daemon.stop()
    wait_until(lambda: not netds(daemon.state), "sampan-netd ends with the last daemon and container")
