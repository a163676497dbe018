"""Networks through the API: what is refused and in which words, what is kept, what a failed start leaves."""

from __future__ import annotations

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ground.daemon import Daemon
from ground.leaks import check_nothing_left
from ground.waiting import wait_until


def create(daemon: Daemon, name: str, **fields: Any) -> str:
    answer = daemon.api("POST", "/networks/create", {"Name": name} | fields)
    return str(answer["Id"])


def subnet(prefix: str, **fields: Any) -> dict[str, Any]:
    return {"IPAM": {"Config": [{"Subnet": prefix, **fields}]}}


def make(daemon: Daemon, name: str, networks: dict[str, Any] | None = None, **host: Any) -> dict[str, Any]:
    """Create a container by the API, as SDKs do; give its inspect."""
    body = {
        "Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": host, "NetworkingConfig": {"EndpointsConfig": networks or {}},
    }  # fmt: skip
    created = daemon.api("POST", f"/containers/create?name={name}", body)
    inspected: dict[str, Any] = daemon.api("GET", f"/containers/{created['Id']}/json")
    return inspected


def bridges(daemon: Daemon) -> set[str]:
    done = daemon.run("ip", "-j", "link", "show", "type", "bridge")
    return {link["ifname"] for link in json.loads(done.stdout)}


def told(answer: tuple[int, bytes]) -> tuple[int, str]:
    return answer[0], json.loads(answer[1])["message"]


def test_a_driver_that_is_not_there_is_no_fault_of_the_engines(daemon: Daemon) -> None:
    status, message = told(daemon.api_raw("POST", "/networks/create", {"Name": "net", "Driver": "brigde"}))
    assert (status, "unknown network driver 'brigde'" in message) == (400, True)
    assert not [line for line in daemon.api("GET", "/info")["Warnings"] or [] if "brigde" in line]


def test_which_networks_a_container_is_in(daemon: Daemon) -> None:
    for name in ("one", "two"):
        create(daemon, name)

    def networks(container: dict[str, Any]) -> list[str]:
        return list(container["NetworkSettings"]["Networks"])

    assert networks(make(daemon, "c0")) == ["bridge"]
    assert networks(make(daemon, "c1", {"default": {"GwPriority": 1}})) == ["bridge"]
    assert networks(make(daemon, "c2", {"one": {}})) == ["one"]  # docker-py says no mode
    assert networks(make(daemon, "c3", {"one": {}, "two": {}}, NetworkMode="two")) == ["two", "one"]
    assert networks(make(daemon, "c4", NetworkMode="none")) == ["none"]
    by_id = daemon.api("GET", "/networks/one")["Id"]
    assert networks(make(daemon, "c5", {by_id: {"Aliases": ["x"]}}, NetworkMode=by_id)) == ["one"]
    short = make(daemon, "c6", NetworkMode=by_id[:12])
    assert (short["HostConfig"]["NetworkMode"], networks(short)) == (by_id, ["one"])
    shared = make(daemon, "c7", NetworkMode="container:c0")
    assert networks(shared) == []
    assert shared["HostConfig"]["NetworkMode"] == f"container:{daemon.api('GET', '/containers/c0/json')['Id']}"
    disabled = daemon.api("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "NetworkDisabled": True})
    daemon.api("POST", f"/containers/{disabled['Id']}/start")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"NetworkMode": "absent"}, "network absent not found"),
        ({"NetworkMode": "container:absent"}, "No such container: absent"),
        ({"NetworkMode": "container:"}, "invalid container format container:<name|id>"),
        ({"NetworkMode": "host", "Links": ["x"]}, "host type networking can't be used with links"),
        ({"NetworkMode": "container:x", "ExtraHosts": ["a:1.1.1.1"]}, "custom host-to-IP mapping and the network mode"),
        ({"NetworkMode": "container:x", "Dns": ["1.1.1.1"]}, "dns and the network mode"),
        ({"Links": ["absent:x"]}, "No such container: absent"),
    ],
)
def test_modes_that_are_refused(daemon: Daemon, fields: dict[str, Any], words: str) -> None:
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": fields}
    status, message = told(daemon.api_raw("POST", "/containers/create", body))
    assert status == 400
    assert words in message
    assert daemon.api("GET", "/containers/json?all=1") == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"IPAMConfig": {"IPv4Address": "10.60.1.1"}}, "no configured subnet contains IP address 10.60.1.1"),
        ({"IPAMConfig": {"IPv4Address": "fd00::1"}}, "invalid IPv4 address: fd00::1"),
        ({"IPAMConfig": {"IPv4Address": "0.0.0.0"}}, "invalid IPv4 address: 0.0.0.0"),
        ({"IPAMConfig": {"IPv6Address": "fe80::1%eth0"}}, "invalid IPv6 address"),
        ({"IPAMConfig": {"LinkLocalIPs": ["x"]}}, "invalid link-local IP address: x"),
        ({"MacAddress": "02:00"}, "invalid MAC address: 02:00"),
        ({"MacAddress": "01:00:5e:00:00:01"}, "invalid MAC address: 01:00:5e:00:00:01"),
        ({"MacAddress": "00:00:00:00:00:00"}, "invalid MAC address: 00:00:00:00:00:00"),
        ({"Aliases": ["two words"]}, "invalid alias"),
        ({"Links": [":x"]}, "invalid link"),
        ({"DriverOpts": {"com.docker.network.endpoint.ifname": "a/b"}}, "invalid interface name 'a/b'"),
    ],
)
def test_settings_that_are_refused(daemon: Daemon, settings: dict[str, Any], words: str) -> None:
    create(daemon, "net", **subnet("10.60.0.0/24"))
    make(daemon, "cc")
    status, message = told(daemon.api_raw("POST", "/networks/net/connect", {"Container": "cc", "EndpointConfig": settings}))
    assert status == 400
    assert words in message
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "net"},
            "NetworkingConfig": {"EndpointsConfig": {"net": settings}}}  # fmt: skip
    assert told(daemon.api_raw("POST", "/containers/create", body)) == (400, message)
    assert list(daemon.api("GET", "/containers/cc/json")["NetworkSettings"]["Networks"]) == ["bridge"]


def test_mac_addresses_that_contradict_each_other(daemon: Daemon) -> None:
    body = {"Image": "busybox", "Cmd": ["true"], "MacAddress": "02:00:00:00:00:01",
            "NetworkingConfig": {"EndpointsConfig": {"bridge": {"MacAddress": "02:00:00:00:00:02"}}}}  # fmt: skip
    assert "conflicting MAC-Address options" in told(daemon.api_raw("POST", "/containers/create", body))[1]


def test_statuses(daemon: Daemon) -> None:
    create(daemon, "net", **subnet("10.61.0.0/24"))
    assert told(daemon.api_raw("POST", "/networks/create", {"Name": "net"})) == (409, "network with name net already exists")
    assert daemon.api_raw("POST", "/networks/create", {"Name": "other"} | subnet("10.61.0.128/25"))[0] in (403, 409)
    assert daemon.api_raw("POST", "/networks/create", {"Name": "other", "Driver": "absent"})[0] == 400
    assert daemon.api_raw("POST", "/networks/create", {"Name": "other", "IPAM": {"Driver": "absent"}})[0] == 400
    assert daemon.api_raw("DELETE", "/networks/bridge")[0] == 403
    assert daemon.api_raw("DELETE", "/networks/absent")[0] == 404
    assert daemon.api_raw("GET", '/networks?filters={"dangling":["maybe"]}')[0] == 400
    assert daemon.api_raw("GET", '/networks?filters={"until":["1h"]}')[0] == 400
    daemon.docker("run", "-d", "--name", "cc", "--network", "net", "busybox", "sleep", "600")
    assert daemon.api_raw("DELETE", "/networks/net")[0] == 403
    assert daemon.api_raw("POST", "/networks/net/connect", {"Container": "cc"})[0] == 403
    assert daemon.api_raw("POST", "/networks/net/disconnect", {"Container": "absent"})[0] == 404


def test_a_start_without_its_network_says_so(daemon: Daemon) -> None:
    create(daemon, "net")
    make(daemon, "cc", NetworkMode="net")
    daemon.api("DELETE", "/networks/net")
    assert told(daemon.api_raw("POST", "/containers/cc/start")) == (409, "network net not found")
    assert daemon.api("GET", "/containers/cc/json")["State"]["ExitCode"] == 128
    create(daemon, "net")
    daemon.api("POST", "/containers/cc/start")


def test_of_many_who_want_a_name_or_a_subnet_one_gets_it(daemon: Daemon) -> None:
    def ask(body: dict[str, Any]) -> int:
        return daemon.api_raw("POST", "/networks/create", body)[0]

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(ask, [{"Name": "net"}] * 8))
        subnets = list(pool.map(ask, [{"Name": f"net{number}"} | subnet("10.67.0.0/24") for number in range(8)]))
    assert sorted(names) == [201, *[409] * 7]
    assert subnets.count(201) == 1


def test_a_network_is_removed_while_containers_start_in_it(daemon: Daemon) -> None:
    """Either the start finds it gone, or the removal finds it in use; never both, nor neither."""
    for round_ in range(6):
        create(daemon, "net")
        make(daemon, f"c{round_}", NetworkMode="net")
        with ThreadPoolExecutor(2) as pool:
            start = pool.submit(daemon.api_raw, "POST", f"/containers/c{round_}/start")
            remove = pool.submit(daemon.api_raw, "DELETE", "/networks/net")
        outcome = start.result()[0], remove.result()[0]
        assert outcome in ((204, 403), (409, 204))
        if outcome[0] == 204:
            daemon.api("DELETE", f"/containers/c{round_}?force=1")
            daemon.api("DELETE", "/networks/net")


def test_a_network_that_cannot_be_made_leaves_nothing(daemon: Daemon) -> None:
    daemon.run("ip", "link", "add", "taken", "type", "veth", "peer", "name", "other")
    try:
        before = bridges(daemon)
        options = {"Options": {"com.docker.network.bridge.name": "taken"}}
        assert daemon.api_raw("POST", "/networks/create", {"Name": "net"} | options)[0] >= 400
        assert bridges(daemon) == before
        assert daemon.api_raw("GET", "/networks/net")[0] == 404
    finally:
        daemon.run("ip", "link", "del", "taken")


def test_a_start_that_fails_in_its_second_network_leaves_the_first(daemon: Daemon) -> None:
    for name, prefix in (("one", "10.62.0.0/24"), ("two", "10.63.0.0/24")):
        create(daemon, name, **subnet(prefix))
    daemon.docker("run", "-d", "--name", "holder", "--network", "name=two,ip=10.63.0.9", "busybox", "sleep", "600")
    make(daemon, "cc", {"one": {}, "two": {"IPAMConfig": {"IPv4Address": "10.63.0.9"}}}, NetworkMode="one",
         PortBindings={"80/tcp": [{"HostPort": "8095"}]})  # fmt: skip
    status, message = told(daemon.api_raw("POST", "/containers/cc/start"))
    assert (status, "Address already in use" in message) == (409, True)
    assert daemon.api("GET", "/networks/one")["Containers"] == {}
    daemon.api("POST", "/networks/two/disconnect", {"Container": "cc"})
    daemon.api("POST", "/containers/cc/start")
    assert daemon.api("GET", "/containers/cc/json")["NetworkSettings"]["Networks"]["one"]["IPAddress"] == "10.62.0.2"


def test_a_connect_that_fails_leaves_the_container_as_it_was(daemon: Daemon) -> None:
    create(daemon, "net", **subnet("10.64.0.0/24"))
    daemon.docker("run", "-d", "--name", "holder", "--network", "name=net,ip=10.64.0.9", "busybox", "sleep", "600")
    daemon.docker("run", "-d", "--name", "cc", "busybox", "sleep", "600")
    before = daemon.docker("exec", "cc", "ip", "route").stdout
    asked = {"Container": "cc", "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.64.0.9"}, "GwPriority": 9}}
    assert daemon.api_raw("POST", "/networks/net/connect", asked)[0] == 409
    assert list(daemon.api("GET", "/containers/cc/json")["NetworkSettings"]["Networks"]) == ["bridge"]
    assert daemon.docker("exec", "cc", "ip", "route").stdout == before


def test_networks_and_containers_in_them_outlive_the_daemon(own_daemon: Daemon) -> None:
    daemon = own_daemon
    create(daemon, "net", EnableIPv6=True, Labels={"a": "b"}, **subnet("10.65.0.0/24", IPRange="10.65.0.128/25"))
    create(daemon, "other")
    daemon.docker("run", "-d", "--name", "cc", "-p", "8096:80", "--network", "net", "--network", "name=other,gw-priority=1",
                  "busybox", "sleep", "600")  # fmt: skip
    before = daemon.api("GET", "/networks"), daemon.api("GET", "/containers/cc/json")["NetworkSettings"]
    routes = daemon.docker("exec", "cc", "ip", "route").stdout
    daemon.kill()
    daemon.start()
    assert (daemon.api("GET", "/networks"), daemon.api("GET", "/containers/cc/json")["NetworkSettings"]) == before
    assert daemon.docker("exec", "cc", "ip", "route").stdout == routes
    create(daemon, "third", **subnet("10.66.0.0/24"))
    daemon.docker("network", "connect", "third", "cc")
    daemon.docker("network", "disconnect", "other", "cc")
    assert daemon.docker("port", "cc").stdout.startswith(b"80/tcp -> 0.0.0.0:8096")
    daemon.docker("rm", "-f", "cc")
    for name in ("net", "other", "third"):
        daemon.docker("network", "rm", name)
    check_nothing_left(daemon)
    daemon.stop()


def test_a_container_that_is_just_ending_is_renamed(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--name", "old", "busybox", "sleep", "600")
    pid = daemon.api("GET", "/containers/old/json")["State"]["Pid"]
    status = Path(f"/proc/{pid}/status")
    shim = next(int(parent) for parent in re.findall(r"PPid:\s*(\d+)", status.read_text()))
    os.kill(shim, signal.SIGSTOP)  # who would tell of the end
    try:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: "State:\tZ" in status.read_text(), "the container has ended")
        assert daemon.api_raw("POST", "/containers/old/rename?name=new")[0] == 204
    finally:
        os.kill(shim, signal.SIGCONT)
    wait_until(lambda: not daemon.api("GET", "/containers/new/json")["State"]["Running"], "its end was seen")
