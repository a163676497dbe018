"""Sandboxes that wait for containers: there before they are needed, of the right network, gone with the network or the daemon."""

from __future__ import annotations

import json
from typing import Any

from ground.daemon import Daemon
from ground.leaks import SANDBOXES, check_nothing_left
from ground.waiting import wait_until


def waiting(daemon: Daemon) -> list[dict[str, Any]]:
    """The links of waiting sandboxes: their other ends are down."""
    links = json.loads(daemon.run("ip", "-j", "link", "show", "type", "veth").stdout or b"[]")
    return [link for link in links if "LOWER_UP" not in link["flags"]]


def full(daemon: Daemon, networks: int = 1) -> bool:
    return len(waiting(daemon)) == networks * SANDBOXES


def test_a_start_takes_one_and_another_is_made(own_daemon: Daemon) -> None:
    wait_until(lambda: full(own_daemon), "the pool of the default network is full")
    before = {link["ifindex"] for link in waiting(own_daemon)}
    own_daemon.docker("run", "-d", "--name", "one", "busybox", "sleep", "1000")
    links = json.loads(own_daemon.run("ip", "-j", "link", "show", "type", "veth").stdout)
    assert {link["ifindex"] for link in links if "LOWER_UP" in link["flags"]} < before
    wait_until(lambda: full(own_daemon), "the pool is full again")
    own_daemon.docker("exec", "one", "ping", "-c", "1", "-W", "5", gateway(own_daemon))
    own_daemon.docker("rm", "-f", "one")
    check_nothing_left(own_daemon)


def gateway(daemon: Daemon) -> str:
    return str(daemon.api("GET", "/networks/bridge")["IPAM"]["Config"][0]["Gateway"])


def test_more_starts_at_once_than_wait(own_daemon: Daemon) -> None:
    wait_until(lambda: full(own_daemon), "the pool is full")
    ids = [
        own_daemon.api("POST", "/containers/create", {"Image": "busybox", "Cmd": ["sleep", "1000"]})["Id"]
        for _ in range(SANDBOXES + 3)
    ]
    for one in ids:
        own_daemon.api("POST", f"/containers/{one}/start")
    addresses = {
        own_daemon.api("GET", f"/containers/{one}/json")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] for one in ids
    }
    assert len(addresses) == len(ids)
    for one in ids:
        own_daemon.docker("exec", one, "ping", "-c", "1", "-W", "5", gateway(own_daemon))


def test_after_a_kill_nothing_is_left_and_a_new_pool_is_made(own_daemon: Daemon) -> None:
    wait_until(lambda: full(own_daemon), "the pool is full")
    before = {link["ifindex"] for link in waiting(own_daemon)}
    own_daemon.kill()
    wait_until(lambda: not waiting(own_daemon), "the kernel has taken apart what nobody holds any more")
    own_daemon.start()
    wait_until(lambda: full(own_daemon), "the new daemon's pool is full")
    assert not before & {link["ifindex"] for link in waiting(own_daemon)}
    own_daemon.stop()
    wait_until(lambda: not waiting(own_daemon), "a daemon that stops takes its pool along")


def test_a_link_that_somebody_removed_is_made_again(own_daemon: Daemon) -> None:
    wait_until(lambda: full(own_daemon), "the pool is full")
    for link in waiting(own_daemon):
        own_daemon.run("ip", "link", "delete", link["ifname"])
    own_daemon.docker("run", "--rm", "busybox", "ping", "-c", "1", "-W", "5", gateway(own_daemon))


def test_a_network_takes_its_sandboxes_along(own_daemon: Daemon) -> None:
    own_daemon.docker("network", "create", "mine")
    own_daemon.docker("run", "--rm", "--network", "mine", "busybox", "true")
    wait_until(lambda: full(own_daemon, networks=2), "the pool of the new network is full, too")
    own_daemon.docker("network", "rm", "mine")
    wait_until(lambda: full(own_daemon), "only the default network's sandboxes wait")


def test_a_network_is_removed_while_sandboxes_are_made_for_it(own_daemon: Daemon) -> None:
    """What is made for it just then does not bring it back."""
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "mine"}}
    for _ in range(25):
        own_daemon.api("POST", "/networks/create", {"Name": "mine"})
        one = own_daemon.api("POST", "/containers/create", body)["Id"]
        own_daemon.api("POST", f"/containers/{one}/start")
        wait_until(lambda: own_daemon.api_raw("DELETE", "/networks/mine")[0] == 204, "its only container has ended")
        own_daemon.api("POST", f"/containers/{one}/wait")  # it has left the network before its end is recorded
        own_daemon.api("DELETE", f"/containers/{one}")
    assert own_daemon.api("GET", "/sampan/system/fsck")["Damage"] == []
    assert "before it is needed" not in own_daemon.log
    check_nothing_left(own_daemon)


def test_ended_containers_let_go_of_links_addresses_and_ports(own_daemon: Daemon) -> None:
    """A container that shares the network of one that ended keeps the sandbox alive: its link goes all the same."""
    own_daemon.docker("run", "-d", "--name", "one", "-p", "8080:80", "busybox", "sleep", "1000")
    own_daemon.docker("run", "-d", "--name", "guest", "--network", "container:one", "busybox", "sleep", "1000")
    address = own_daemon.api("GET", "/containers/one/json")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    own_daemon.docker("stop", "-t", "0", "one")
    assert own_daemon.docker("exec", "guest", "ping", "-c", "1", "-W", "1", gateway(own_daemon), check=None).returncode
    own_daemon.docker("run", "-d", "--name", "two", "-p", "8080:80", "busybox", "sleep", "1000")
    assert own_daemon.api("GET", "/containers/two/json")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] == address
    own_daemon.docker("exec", "two", "ping", "-c", "1", "-W", "5", gateway(own_daemon))
    wait_until(lambda: own_daemon.docker("exec", "guest", "ip", "link").stdout.count(b"eth0") == 0, "the old link is deleted")
    for name in ("guest", "one", "two"):
        own_daemon.docker("rm", "-f", name)
    check_nothing_left(own_daemon)
