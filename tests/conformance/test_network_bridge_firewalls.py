"""The bridge driver beside firewalls of others that drop forwarded packets: named with a remedy that works, real packets as judges.

The rules are what dockerd, ufw and firewalld leave in the kernel, cut to what decides about forwarded packets.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sampan.api.network import Endpoint, Network, PortMapping
from sampan.linux.namespaces import call_in_netns
from sampan.testing.namespaces import Namespace, listen, reaches
from sampan.testing.network import HOST, OUTSIDE, Lab
from sampan_network_bridge.driver import BridgeDriver

DOCKERD = """
add table ip filter
add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }
add chain ip filter DOCKER
add chain ip filter DOCKER-USER
add rule ip filter FORWARD counter jump DOCKER-USER
add rule ip filter FORWARD oifname docker0 ct state related,established counter accept
add rule ip filter FORWARD oifname docker0 counter jump DOCKER
add rule ip filter FORWARD iifname docker0 oifname != docker0 counter accept
add rule ip filter DOCKER-USER counter return
"""

UFW = """
add table ip filter
add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }
add chain ip filter ufw-before-forward
add chain ip filter ufw-user-forward
add rule ip filter FORWARD counter jump ufw-before-forward
add rule ip filter ufw-before-forward ct state related,established counter accept
add rule ip filter ufw-before-forward icmp type echo-request counter accept
add rule ip filter ufw-before-forward counter jump ufw-user-forward
"""

FIREWALLD = """
add table inet firewalld
add chain inet firewalld filter_FORWARD { type filter hook forward priority filter + 10; policy accept; }
add chain inet firewalld filter_FORWARD_ZONES
add chain inet firewalld filter_FWD_public
add chain inet firewalld filter_FWD_trusted
add rule inet firewalld filter_FORWARD ct state { established, related } accept
add rule inet firewalld filter_FORWARD ct status dnat accept
add rule inet firewalld filter_FORWARD iifname "lo" accept
add rule inet firewalld filter_FORWARD jump filter_FORWARD_ZONES
add rule inet firewalld filter_FORWARD ct state invalid drop
add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited
add rule inet firewalld filter_FORWARD_ZONES iifname "uplink" goto filter_FWD_public
add rule inet firewalld filter_FORWARD_ZONES goto filter_FWD_public
add rule inet firewalld filter_FWD_trusted accept
"""

PLAIN = "add table inet own\nadd chain inet own pass { type filter hook forward priority -5; policy drop; }\n"


def make_lab(tmp_path: Path, stack: ExitStack, config: Mapping[str, Any]) -> Lab:
    return Lab(BridgeDriver, config, tmp_path, stack)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with ExitStack() as stack:
        yield make_lab(tmp_path, stack, {})


@pytest.fixture
def asking_lab(tmp_path: Path) -> Iterator[Lab]:
    """A lab whose administrator wants our accept in Docker's chain."""
    with ExitStack() as stack:
        yield make_lab(tmp_path, stack, {"docker_user": True})


def nft(lab: Lab, commands: str) -> str:
    done = lab.host.run(subprocess.run, ["nft", "-f", "-"], input=commands, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def web(lab: Lab) -> tuple[Network, Endpoint, Namespace]:
    network = lab.network()
    sandbox, endpoint, _ = lab.container(network, ports=(PortMapping("tcp", 80, 8080),))
    return network, endpoint, sandbox


WAIT = 2.0
"""Seconds for an answer that may or may not come: a loaded machine needs more than `unreachable` gives."""


def ways(lab: Lab, sandbox: Namespace) -> tuple[bool, bool]:
    """Say whether packets reach the outside, and the published port from there."""
    with listen(lab.outside, 82) as outside, listen(sandbox, 80) as inside:
        out = reaches(sandbox, OUTSIDE, 82, outside, patience=WAIT) != ""
        return out, reaches(lab.outside, HOST, 8080, inside, patience=WAIT) != ""


@pytest.mark.parametrize(
    ("rules", "way", "remedy"),
    [(DOCKERD, "from or to", "docker_user = true"), (UFW, "from or to", "ufw route allow in on"), (PLAIN, "from or to", "nft insert rule"),
     (FIREWALLD, "from", "firewall-cmd --permanent --zone=trusted --add-interface=")],
    ids=["dockerd", "ufw", "plain", "firewalld"],
)  # fmt: skip
def test_a_firewall_that_drops_is_named_and_packets_agree(lab: Lab, rules: str, way: str, remedy: str) -> None:
    _, _, sandbox = web(lab)
    assert lab.host.run(lab.driver.obstacles) == ()
    assert ways(lab, sandbox) == (True, True)
    nft(lab, rules)
    (told,) = lab.host.run(lab.driver.obstacles)
    assert f"drops what is forwarded {way} sp-" in told
    assert remedy in told
    assert ways(lab, sandbox) == (False, way == "from")


def test_the_remedy_told_is_one(lab: Lab) -> None:
    """The general one can be run as it is told."""
    _, _, sandbox = web(lab)
    nft(lab, PLAIN)
    (told,) = lab.host.run(lab.driver.obstacles)
    for command in told.partition(": ")[2].split("; "):
        lab.host.run(subprocess.run, shlex.split(command), check=True)
    assert lab.host.run(lab.driver.obstacles) == ()
    assert ways(lab, sandbox) == (True, True)


def test_what_lets_our_bridges_through_is_no_obstacle(lab: Lab) -> None:
    _, _, sandbox = web(lab)
    nft(lab, FIREWALLD + 'insert rule inet firewalld filter_FORWARD_ZONES iifname "sp-*" goto filter_FWD_trusted\n')
    assert lab.host.run(lab.driver.obstacles) == ()
    assert ways(lab, sandbox) == (True, True)


def test_internal_networks_have_no_obstacle(lab: Lab) -> None:
    lab.network(internal=True)
    nft(lab, DOCKERD)
    assert lab.host.run(lab.driver.obstacles) == ()


def docker_user(lab: Lab) -> list[str]:
    listed = lab.host.run(subprocess.run, ["nft", "-s", "list", "chain", "ip", "filter", "DOCKER-USER"], capture_output=True, text=True)
    return [line.strip() for line in listed.stdout.splitlines() if "sampan" in line]


def test_docker_user_lets_our_bridges_through(asking_lab: Lab) -> None:
    lab = asking_lab
    nft(lab, DOCKERD)
    network, endpoint, sandbox = web(lab)
    assert len(docker_user(lab)) == 2
    assert lab.host.run(lab.driver.obstacles) == ()
    assert ways(lab, sandbox) == (True, True)
    lab.restart(network)
    assert len(docker_user(lab)) == 2, "by difference"
    seen = lab.host.run(subprocess.run, ["iptables", "-S", "DOCKER-USER"], capture_output=True, text=True)
    assert "-j ACCEPT" in seen.stdout, "iptables reads it too"
    lab.detach(network, endpoint)
    lab.host.run(lab.driver.delete_network, network)
    assert docker_user(lab) == []


def test_docker_user_is_left_alone_unless_asked_and_taken_back(asking_lab: Lab, tmp_path: Path) -> None:
    lab = asking_lab
    nft(lab, DOCKERD + 'insert rule ip filter DOCKER-USER iifname "theirs" counter accept comment "sampan ffffffff"\n')
    network = lab.network()
    assert len(docker_user(lab)) == 3
    lab._config = {}
    lab.restart(network)
    assert [line for line in docker_user(lab) if "ffffffff" not in line] == []
    assert len(docker_user(lab)) == 1, "another engine's stays"


def test_explained(lab: Lab) -> None:
    network, endpoint, _ = web(lab)
    told = "\n".join(lab.host.run(lab.driver.explain, network, endpoint))
    assert f"tcp to port 8080 of every IPv4 address of this host reaches it at {str(endpoint.ipv4).partition('/')[0]}:80" in told
    assert "element tcp . 8080 of ports4" in told
    assert f"containers of network {network.name} reach every port of it" in told
    nft(lab, "flush map inet sampan_5a3bca7e ports4")
    assert "is missing: a restart of the daemon mends that" in "\n".join(lab.host.run(lab.driver.explain, network, endpoint))


def test_docker_user_has_two_rules_of_a_bridge_however_many_networks_come_at_once(asking_lab: Lab) -> None:
    lab = asking_lab
    nft(lab, DOCKERD)
    planned = [lab.describe() for _ in range(8)]

    def make(network: Network) -> None:
        call_in_netns(lab.host.fd, lambda: lab.driver.create_network(network))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, planned))
    assert nft(lab, "list chain ip filter DOCKER-USER").count("sampan 5a3bca7e") == 16
