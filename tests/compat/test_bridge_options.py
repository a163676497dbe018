"""Options of bridge networks, by either client: gateway modes, IPv6 only, interfaces. Packets of all kinds: conformance tests."""

from __future__ import annotations

import json

import pytest

from compat.conftest import Client

BRIDGE = "com.docker.network.bridge"
SERVER = "httpd -p 80 -h /etc; httpd -p 81 -h /etc; touch /up; exec sleep 1000"


def serve(client: Client, *options: str) -> str:
    container = client.out("run", "-d", *options, "busybox", "sh", "-c", SERVER)
    client("exec", container, "sh", "-c", "while ! [ -e /up ]; do usleep 10000; done")
    return container


def address(client: Client, container: str, network: str, field: str = "IPAddress") -> str:
    told = json.loads(client.out("inspect", "-f", "{{json .NetworkSettings.Networks}}", container))
    return str(told[network][field])


def fetch(client: Client, url: str) -> bool:
    """Ask from a container of the default network."""
    asked = client("run", "--rm", "busybox", "sh", "-c", f"timeout 2 wget -q -O - {url}; true")
    return b"root:x:0:0" in asked.stdout


def test_a_routed_network(client: Client) -> None:
    client("network", "create", "-o", f"{BRIDGE}.gateway_mode_ipv4=routed", "routed")
    container = serve(client, "--network", "routed", "-p", "8080:80")
    told = json.loads(client.out("inspect", "-f", "{{json .NetworkSettings.Ports}}", container))
    assert {binding["HostPort"] for binding in told["80/tcp"]} == {""}, "no port of the host is taken"
    own = address(client, container, "routed")
    assert fetch(client, f"http://{own}:80/passwd")
    assert not fetch(client, f"http://{own}:81/passwd")
    assert not fetch(client, "http://172.31.77.1:8080/passwd")
    other = serve(client, "-p", "8080:80")
    assert fetch(client, "http://172.31.77.1:8080/passwd"), "8080 was free"
    client("rm", "-f", container, other)


def test_ipv6_alone(client: Client) -> None:
    client("network", "create", "--ipv6", "--ipv4=false", "six")
    container = serve(client, "--network", "six", "-p", "8081:80")
    assert address(client, container, "six") == ""
    assert address(client, container, "six", "GlobalIPv6Address").startswith("fd")
    assert b"root:x:0:0" in client.daemon.run("curl", "-s", "--max-time", "5", "http://[::1]:8081/passwd").stdout
    own = address(client, container, "six", "GlobalIPv6Address")
    assert b"root:x:0:0" in client.daemon.run("curl", "-s", "--max-time", "5", f"http://[{own}]:81/passwd").stdout


def test_an_isolated_network_keeps_no_address_for_a_gateway(client: Client) -> None:
    client("network", "create", "--internal", "--subnet", "10.93.0.0/29", "-o", f"{BRIDGE}.gateway_mode_ipv4=isolated", "iso")
    assert "Gateway" not in client.out("network", "inspect", "-f", "{{json .IPAM.Config}}", "iso")
    first = serve(client, "--network", "iso")
    assert address(client, first, "iso") == "10.93.0.1"
    own = client("run", "--rm", "--network", "iso", "busybox", "wget", "-q", "-O", "-", "http://10.93.0.1/passwd")
    assert b"root:x:0:0" in own.stdout


def test_names_and_switches_of_interfaces(client: Client) -> None:
    client("network", "create", "-o", "com.docker.network.container_iface_prefix=lan", "named")
    switch = "driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1"
    network = ("--network", f"name=named,{switch}")
    assert client.out("run", "--rm", *network, "busybox", "cat", "/proc/sys/net/ipv4/conf/lan0/log_martians") == "1"
    network = ("--network", f"name=named,{switch.replace('IFNAME', 'lan0')}")
    refused = client("create", *network, "busybox", check=None)
    assert refused.returncode != 0 and b"unrecognised network interface sysctl" in refused.stderr


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (f"{BRIDGE}.gateway_mode_ipv4=nothing", "one of nat, nat-unprotected, routed, isolated"),
        (f"{BRIDGE}.gateway_mode_ipv6=isolated", "can only be used for an internal network"),
        (f"{BRIDGE}.enable_icc=perhaps", "say true or false"),
        (f"{BRIDGE}.name=../x", "no link name"),
        (f"{BRIDGE}.trusted_host_interfaces=a*", "no link name"),
        ("com.docker.network.host_ipv4=::1", "no IPv4 address of a host"),
        ("com.docker.network.driver.mtu=12", "a number of bytes from 68 to 65535"),
    ],
)
def test_a_bad_option_makes_no_network(client: Client, option: str, told: str) -> None:
    before = client.out("network", "ls", "-q")
    refused = client("network", "create", "-o", option, "bad", check=1)
    assert told in refused.stderr.decode()
    assert client.out("network", "ls", "-q") == before
