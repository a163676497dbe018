"""macvlan as users meet it: containers as machines of the host's network, connected, restarted, and the daemon killed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from compat.conftest import Client
from ground.daemon import Daemon
from sampan.linux.namespaces import call_in_netns
from sampan.linux.netlink import Netlink, add_address, add_veth, link_index, set_link
from sampan.testing.namespaces import Namespace

SUBNET, ROUTER = "192.0.2.0/24", "192.0.2.9"


@pytest.fixture
def router(daemon: Daemon) -> Iterator[Namespace]:
    """A machine at the other end of the host's link `uplink`."""
    yield from _machine(daemon)


@pytest.fixture
def own_router(own_daemon: Daemon) -> Iterator[Namespace]:
    """The same beside a daemon that may be killed."""
    yield from _machine(own_daemon)


def _machine(daemon: Daemon) -> Iterator[Namespace]:
    machine = Namespace()

    def plug_in() -> None:
        with Netlink() as kernel:
            kernel.run(add_veth("uplink", peer="wire", netns=machine.fd))

    def settle() -> None:
        with Netlink() as kernel:
            index = link_index("wire")
            kernel.run(set_link("lo", up=True), add_address(index, f"{ROUTER}/24"), set_link(index, up=True))

    try:
        call_in_netns(daemon.netns, plug_in)
        machine.run(settle)
        yield machine
    finally:
        daemon.run("ip", "link", "delete", "uplink")
        machine.close()


def network(client: Client, name: str = "lan", *options: str) -> None:
    client(
        "network", "create", "-d", "macvlan", "-o", "parent=uplink", "--subnet", SUBNET, "--gateway", ROUTER,
        "--ip-range", "192.0.2.64/26", *options, name,
    )  # fmt: skip


def sleeper(client: Client, name: str, *options: str) -> None:
    client("run", "-d", "--name", name, *options, "busybox", "sleep", "600")


def pings(client: Client, container: str, address: str) -> bool:
    done = client("exec", container, "ping", "-c", "1", "-W", "3", address, check=None)
    return done.returncode == 0


def told(client: Client, container: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(client.out("inspect", "-f", "{{json .NetworkSettings.Networks}}", container))
    return answer


def test_a_container_is_on_the_wire_and_finds_others_by_name(client: Client, router: Namespace) -> None:
    network(client)
    sleeper(client, "one", "--network", "lan", "--ip", "192.0.2.77", "-p", "80:80")
    sleeper(client, "two", "--network", "lan", "--mac-address", "02:42:00:00:be:ef")
    assert told(client, "one")["lan"]["MacAddress"] == "02:42:c0:00:02:4d"
    assert told(client, "two")["lan"]["MacAddress"] == "02:42:00:00:be:ef"
    assert client.out("port", "one") == ""
    assert pings(client, "one", ROUTER) and pings(client, "two", "one")
    assert client.out("exec", "one", "ip", "route").splitlines()[0].split()[:5] == ["default", "via", ROUTER, "dev", "eth0"]
    neighbours = router.run(subprocess.run, ["ip", "neigh"], capture_output=True, text=True).stdout
    assert "192.0.2.77 dev wire lladdr 02:42:c0:00:02:4d" in neighbours
    assert b"has active endpoints" in client("network", "rm", "lan", check=1).stderr


def test_connect_and_disconnect_a_running_container(client: Client, router: Namespace) -> None:
    network(client)
    sleeper(client, "one")
    client("network", "connect", "lan", "one")
    assert pings(client, "one", ROUTER)
    assert "eth1" in client.out("exec", "one", "ip", "link")
    client("network", "disconnect", "lan", "one")
    assert "eth1" not in client.out("exec", "one", "ip", "link")
    assert list(told(client, "one")) == ["bridge"]
    client("network", "rm", "lan")


def test_a_restart_keeps_the_hardware_address(client: Client, router: Namespace) -> None:
    """It is free only once the kernel has taken the old sandbox apart: nobody meets that as an error."""
    network(client, "lan")
    sleeper(client, "one", "--network", "lan", "--mac-address", "02:42:00:00:be:ef")
    for _ in range(3):
        client("restart", "-t", "0", "one")
        assert told(client, "one")["lan"]["MacAddress"] == "02:42:00:00:be:ef"
    assert pings(client, "one", ROUTER)


def test_what_cannot_be_is_refused_in_words(client: Client, router: Namespace) -> None:
    for options, words in (
        (("-o", "parent=nosuch0"), "parent interface nosuch0 was not found"),
        (("-o", "parent=lo"), "loopback interface is not a valid macvlan parent link"),
        (("-o", "parent=uplink", "-o", "macvlan_mode=x"), "requested macvlan mode 'x' is not valid"),
        (("-o", "parent=uplink", "--internal"), "leads out"),
    ):
        assert words in client("network", "create", "-d", "macvlan", *options, "bad", check=1).stderr.decode()
    assert "not built" in client("network", "create", "-d", "ipvlan", "-o", "parent=uplink", "bad", check=1).stderr.decode()
    assert client.out("network", "ls", "-q", "--filter", "type=custom") == ""


def test_a_killed_daemon_finds_everything_as_it_was(own_daemon: Daemon, own_router: Namespace) -> None:
    docker = Client("docker", ("docker",), own_daemon)
    network(docker)
    docker("network", "create", "-d", "macvlan", "--internal", "alone")
    sleeper(docker, "one", "--network", "lan")
    docker("network", "connect", "alone", "one")
    own_daemon.kill()
    own_daemon.start()
    assert pings(docker, "one", ROUTER)
    assert own_daemon.api("GET", "/sampan/system/fsck")["Damage"] == []
    docker("network", "disconnect", "alone", "one")
    docker("network", "rm", "alone")
    assert docker.out("exec", "one", "ls", "/sys/class/net").split() == ["eth0", "lo"]
    docker("rm", "-f", "one")
    docker("network", "rm", "lan")
    left = own_daemon.run("ip", "-br", "link").stdout.decode()
    assert "sm-" not in left and "uplink" in left
    own_daemon.stop()
