"""Networks that users make: created, listed, inspected, joined, left, removed."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from compat.conftest import Client


def networks_of(client: Client, container: str) -> dict[str, Any]:
    """Give NetworkSettings.Networks."""
    told: dict[str, Any] = json.loads(client.out("inspect", "-f", "{{json .NetworkSettings.Networks}}", container))
    return told


def default_route(client: Client, container: str) -> str:
    """Give the interface of the default route, or ""."""
    routes = client.out("exec", container, "ip", "route").splitlines()
    found = [line.split() for line in routes if line.startswith("default ")]
    assert len(found) < 2
    return found[0][found[0].index("dev") + 1] if found else ""


def sleeper(client: Client, name: str, *options: str) -> None:
    client("run", "-d", "--name", name, *options, "busybox", "sleep", "600")


def test_create_inspect_list_and_remove(client: Client) -> None:
    made = client.out(
        "network", "create", "--subnet", "10.88.0.0/16", "--ip-range", "10.88.5.0/24", "--gateway", "10.88.0.254",
        "--aux-address", "printer=10.88.5.1", "--label", "a=b", "--attachable", "net",
    )  # fmt: skip
    told = json.loads(client.out("network", "inspect", "net"))[0]
    assert told["Id"] == made
    assert told["IPAM"]["Config"] == [
        {"Subnet": "10.88.0.0/16", "IPRange": "10.88.5.0/24", "Gateway": "10.88.0.254",
         "AuxiliaryAddresses": {"printer": "10.88.5.1"}}
    ]  # fmt: skip
    assert (told["Driver"], told["Internal"], told["Attachable"], told["Labels"]) == ("bridge", False, True, {"a": "b"})
    sleeper(client, "one", "--network", "net")
    assert networks_of(client, "one")["net"]["IPAddress"] == "10.88.5.0"  # the first of the range, as Docker gives it
    assert json.loads(client.out("network", "inspect", made[:12]))[0]["Containers"].popitem()[1]["Name"] == "one"
    refused = client("network", "rm", "net", check=1)
    assert b"network net has active endpoints" in refused.stderr
    client("rm", "-f", "one")
    assert "net" in client.out("network", "ls", "--filter", "label=a=b", "--format", "{{.Name}}")
    client("network", "rm", "net")
    assert client.out("network", "ls", "-q", "--filter", "type=custom") == ""
    assert b"not found" in client("network", "inspect", "net", check=1).stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("bridge",), "operation is not permitted on predefined bridge network"),
        (("--driver", "absent", "x"), "absent"),
        (("--driver", "host", "x"), 'only one instance of "host" network is allowed'),
        (("--subnet", "172.31.77.0/25", "x"), "Pool overlaps with other one on this address space"),
        (("-o", "com.docker.network.bridge.name=/", "x"), "bridge"),
        (("--subnet", "10.1.0.0/24", "--aux-address", "a=10.1.0.5", "--aux-address", "b=10.1.0.5", "x"), "Address already in use"),
    ],
)
def test_refusals(client: Client, arguments: tuple[str, ...], told: str) -> None:
    assert told in client("network", "create", *arguments, check=1).stderr.decode()
    assert client.out("network", "ls", "-q", "--filter", "type=custom") == ""


def test_a_name_is_taken_once(client: Client) -> None:
    client("network", "create", "net")
    assert b"network with name net already exists" in client("network", "create", "net", check=1).stderr


@pytest.mark.parametrize("name", ["bridge", "host", "none"])
def test_the_engines_own_stay(client: Client, name: str) -> None:
    assert f"{name} is a pre-defined network and cannot be removed" in client("network", "rm", name, check=1).stderr.decode()


def test_several_networks_from_the_start(client: Client) -> None:
    for name in ("red", "blue"):
        client("network", "create", name)
    sleeper(client, "both", "--network", "red", "--network", "blue")
    sleeper(client, "red1", "--network", "red")
    sleeper(client, "blue1", "--network", "blue")
    for name, network in (("red1", "red"), ("blue1", "blue")):
        client("exec", "both", "ping", "-c", "1", "-w", "5", networks_of(client, name)[network]["IPAddress"])
    assert client.out("exec", "both", "ls", "/sys/class/net").split() == ["eth0", "eth1", "lo"]
    client("exec", "red1", "ping", "-c", "1", "-w", "1", networks_of(client, "blue1")["blue"]["IPAddress"], check=1)
    assert default_route(client, "both") == "eth1"  # blue is before red, by name
    assert client.out("ps", "--filter", "network=blue", "--format", "{{.Names}}").split() == ["blue1", "both"]


def test_the_highest_priority_leads_out(client: Client) -> None:
    for name in ("a", "b"):
        client("network", "create", name)
    sleeper(client, "cc", "--network", "a", "--network", "name=b,gw-priority=5,driver-opt=com.docker.network.endpoint.ifname=up")
    assert default_route(client, "cc") == "up"
    assert networks_of(client, "cc")["b"]["GwPriority"] == 5
    client("network", "create", "--subnet", "10.89.0.0/24", "third")
    client("network", "connect", "--gw-priority", "9", "third", "cc")
    assert default_route(client, "cc") == "eth1"
    client("network", "disconnect", "third", "cc")
    assert default_route(client, "cc") == "up"


def test_connect_and_disconnect_a_running_container(client: Client) -> None:
    client("network", "create", "--subnet", "10.90.0.0/24", "net")
    sleeper(client, "cc", "-p", "8090:80")
    sleeper(client, "other", "--network", "net")
    client("network", "connect", "--ip", "10.90.0.77", "--alias", "me", "net", "cc")
    told = networks_of(client, "cc")
    assert set(told) == {"bridge", "net"}
    assert (told["net"]["IPAddress"], told["net"]["Aliases"]) == ("10.90.0.77", ["me"])
    assert {"cc", "me"} <= set(told["net"]["DNSNames"])
    assert told["bridge"]["DNSNames"] is None
    client("exec", "other", "ping", "-c", "1", "-w", "5", "10.90.0.77")
    assert "10.90.0.77\t" in client.out("exec", "cc", "cat", "/etc/hosts")
    assert b"already exists in network net" in client("network", "connect", "net", "cc", check=1).stderr
    client("network", "disconnect", "bridge", "cc")
    assert default_route(client, "cc") == "eth1"
    assert "172.31.77." not in client.out("exec", "cc", "cat", "/etc/hosts")
    client("network", "disconnect", "net", "cc")
    assert client.out("exec", "cc", "ls", "/sys/class/net").split() == ["lo"]
    assert b"is not connected to network net" in client("network", "disconnect", "net", "cc", check=1).stderr
    client("restart", "-t", "0", "cc")
    assert networks_of(client, "cc") == {}
    assert client.out("exec", "cc", "ls", "/sys/class/net").split() == ["lo"]


def test_published_ports_follow_the_way_out(client: Client) -> None:
    client("network", "create", "net")
    container = client.out("run", "-d", "--name", "cc", "-p", "8091:80", "busybox", "httpd", "-f", "-h", "/etc")
    client("exec", container, "sh", "-c", "while ! netstat -ltn | grep -q ':80 '; do usleep 10000; done")

    def fetch() -> bytes:
        return client.daemon.run("curl", "-s", "--max-time", "5", "http://127.0.0.1:8091/passwd").stdout

    assert fetch().startswith(b"root")
    for action in (("connect", "--gw-priority", "1", "net"), ("disconnect", "bridge"), ("connect", "bridge"), ("disconnect", "net")):
        client("network", *action, "cc")
        assert fetch().startswith(b"root")
        assert client.out("port", "cc", "80").splitlines()[0] == "0.0.0.0:8091"


def test_connect_and_disconnect_a_stopped_container(client: Client) -> None:
    client("network", "create", "net")
    client("create", "--name", "cc", "busybox", "ls", "/sys/class/net")
    client("network", "connect", "net", "cc")
    assert set(networks_of(client, "cc")) == {"bridge", "net"}
    assert client.out("start", "-a", "cc").split() == ["eth0", "eth1", "lo"]
    client("network", "disconnect", "bridge", "cc")
    assert set(networks_of(client, "cc")) == {"net"}
    assert client.out("start", "-a", "cc").split() == ["eth0", "lo"]
    client("network", "rm", "net")
    assert b"network net not found" in client("start", "cc", check=1).stderr
    client("network", "disconnect", "-f", "net", "cc")
    assert client.out("start", "-a", "cc").split() == ["lo"]


def test_who_cannot_be_connected(client: Client) -> None:
    client("network", "create", "net")
    sleeper(client, "host", "--network", "host")
    sleeper(client, "none", "--network", "none")
    sleeper(client, "plain")
    sleeper(client, "sharing", "--network", "container:plain")
    for container, told in (
        ("host", "cannot be connected to any other network"),
        ("none", "in private (none) mode"),
        ("sharing", "cannot be connected to any other network"),
    ):
        assert told in client("network", "connect", "net", container, check=1).stderr.decode()
    assert b"must be created in host network mode" in client("network", "connect", "host", "plain", check=1).stderr
    assert b"No such container" in client("network", "connect", "net", "absent", check=1).stderr
    assert b"not found" in client("network", "connect", "absent", "plain", check=1).stderr


def test_addresses_as_asked(client: Client) -> None:
    client("network", "create", "--ipv6", "--subnet", "10.91.0.0/24", "--subnet", "fd91::/64", "net")
    sleeper(
        client, "cc", "--network", "net", "--ip", "10.91.0.9", "--ip6", "fd91::9", "--mac-address", "02:00:00:00:91:09",
        "--link-local-ip", "169.254.7.7",
    )  # fmt: skip
    told = networks_of(client, "cc")["net"]
    assert (told["IPAddress"], told["GlobalIPv6Address"], told["MacAddress"]) == ("10.91.0.9", "fd91::9", "02:00:00:00:91:09")
    assert (told["Gateway"], told["IPv6Gateway"]) == ("10.91.0.1", "fd91::1")
    shown = client.out("exec", "cc", "ip", "addr", "show", "dev", "eth0")
    for text in ("10.91.0.9/24", "fd91::9/64", "169.254.7.7/16", "02:00:00:00:91:09"):
        assert text in shown
    taken = client("run", "--rm", "--network", "net", "--ip", "10.91.0.9", "busybox", "true", check=125)
    assert b"Address already in use" in taken.stderr
    outside = client("run", "--rm", "--network", "net", "--ip", "10.92.0.9", "busybox", "true", check=125)
    assert b"no configured subnet contains IP address 10.92.0.9" in outside.stderr
    default = client("run", "--rm", "--ip", "172.31.77.9", "busybox", "true", check=125)
    assert b"user-specified IP address is supported on user-defined networks only" in default.stderr
    assert set(client.out("ps", "-a", "--format", "{{.Names}}").split()) == {"cc"}


def test_an_internal_network_leads_nowhere(client: Client) -> None:
    client("network", "create", "--internal", "closed")
    started = client("run", "-d", "--name", "cc", "--network", "closed", "-p", "8092:80", "busybox", "sleep", "600")
    assert b"Published ports are discarded: the container leads out by no network (closed)" in started.stderr
    assert default_route(client, "cc") == ""
    assert networks_of(client, "cc")["closed"]["Gateway"] == ""
    assert client.out("port", "cc") == ""
    assert client.out("ps", "--format", "{{.Ports}}") == ""
    client("network", "connect", "bridge", "cc")
    assert default_route(client, "cc") == "eth1"
    assert client.out("port", "cc").startswith("80/tcp -> 0.0.0.0:8092")


def test_prune(client: Client) -> None:
    for name in ("used", "unused", "kept"):
        client("network", "create", "--label", f"name={name}", name)
    sleeper(client, "cc", "--network", "used")
    assert "dangling" not in client.out("network", "ls", "--filter", "dangling=false", "--format", "{{.Name}}")
    assert set(client.out("network", "ls", "--filter", "dangling=true", "--format", "{{.Name}}").split()) == {"unused", "kept"}
    assert client.out("network", "prune", "-f", "--filter", "until=24h") == ""
    assert "unused" in client.out("network", "prune", "-f", "--filter", "label!=name=kept")
    assert set(client.out("network", "ls", "--filter", "type=custom", "--format", "{{.Name}}").split()) == {"used", "kept"}


def test_links_on_the_default_bridge(client: Client) -> None:
    sleeper(client, "db", "--expose", "5432", "-e", "WHO=me")
    sleeper(client, "web", "--link", "db:store")
    assert client.out("inspect", "-f", "{{json .HostConfig.Links}}", "web") == '["/db:/web/store"]'
    client("exec", "web", "ping", "-c", "1", "-w", "5", "store")
    environment = client.out("exec", "web", "env").splitlines()
    address = networks_of(client, "db")["bridge"]["IPAddress"]
    assert {f"STORE_PORT_5432_TCP=tcp://{address}:5432", "STORE_NAME=/web/store", "STORE_ENV_WHO=me"} <= set(environment)
    client("stop", "-t", "0", "db")
    sleeper(client, "thief")  # it gets the address
    client("start", "db")
    assert networks_of(client, "db")["bridge"]["IPAddress"] != address
    client("exec", "web", "ping", "-c", "1", "-w", "5", "store")
    client("run", "-d", "--name", "loose", "--link", "db:tie", "busybox", "sleep", "600")
    assert set(client.out("ps", "--filter", "name=db", "--format", "{{.Names}}", "--no-trunc").split(",")) == {"db", "web/store", "loose/tie"}
    client("rm", "--link", "loose/tie")
    client("exec", "loose", "ping", "-c", "1", "-w", "2", "tie", check=1)
    assert client.out("inspect", "-f", "{{json .HostConfig.Links}}", "loose") == "null"
    client("stop", "-t", "0", "db", "web")
    assert b"Cannot link to a non running container: /db AS /web/store" in client("start", "web", check=1).stderr
    absent = client("run", "--rm", "--link", "absent", "busybox", "true", check=125)
    assert b"absent" in absent.stderr


def test_host_gateway_is_the_default_bridges(client: Client) -> None:
    client("network", "create", "net")
    hosts = client.out("run", "--rm", "--network", "net", "--add-host", "up:host-gateway", "busybox", "cat", "/etc/hosts")
    assert "172.31.77.1\tup" in hosts.splitlines()


def test_a_shared_network_shares_its_files(client: Client) -> None:
    sleeper(client, "first", "--hostname", "keel", "--add-host", "far:10.1.1.1")
    shared = client.out("run", "--rm", "--network", "container:first", "busybox", "sh", "-c", "hostname; cat /etc/hosts")
    assert shared.splitlines()[0] == "keel"
    assert "10.1.1.1\tfar" in shared
    refused = client("run", "--rm", "--network", "container:first", "-p", "80:80", "busybox", "true", check=125)
    assert b"conflicting options" in refused.stderr


def test_events(client: Client) -> None:
    since = str(time.time())
    client("network", "create", "net")
    container = client.out("run", "-d", "--network", "net", "busybox", "sleep", "600")
    client("rm", "-f", container)
    client("network", "rm", "net")
    client("network", "prune", "-f")
    until = str(time.time())
    lines = client.out("events", "--since", since, "--until", until, "--filter", "type=network", "--format", "{{json .}}").splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["Action"] for event in events] == ["create", "connect", "disconnect", "destroy", "prune"]
    assert events[1]["Actor"]["Attributes"] == {"container": container, "name": "net", "type": "bridge"}
    assert {event["Actor"]["ID"] for event in events[:-1]} == {events[0]["Actor"]["ID"]}
    assert events[-1]["Actor"]["Attributes"] == {"reclaimed": "0"}
