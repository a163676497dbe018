"""One network over two machines, each with an engine of its own, as `docs/how-to/join-machines.md` tells it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from ground.daemon import Daemon, new_daemon
from ground.waiting import wait_until
from sampan.linux.namespaces import call_in_netns
from sampan.linux.netlink import Netlink, add_address, add_veth, link_index, set_link

ADDRESSES = ("192.0.2.1", "192.0.2.2")


@pytest.fixture
def machines() -> Iterator[tuple[Daemon, Daemon]]:
    with new_daemon() as one, new_daemon() as two:
        call_in_netns(one.netns, lambda: plug_in(two.netns))
        for machine, address in zip((one, two), ADDRESSES, strict=True):
            call_in_netns(machine.netns, lambda address=address: number(address))
            machine.start()
            machine.api("POST", "/sampan/images/bootstrap")
        yield one, two
        for machine in (one, two):
            machine.stop()


def plug_in(other: int) -> None:
    with Netlink() as kernel:
        kernel.run(add_veth("wire", peer="wire", netns=other))


def number(address: str) -> None:
    with Netlink() as kernel:
        index = link_index("wire")
        kernel.run(add_address(index, f"{address}/24"), set_link(index, up=True))


def create(machine: Daemon, ip_range: str) -> None:
    machine.docker(
        "network", "create", "-d", "vxlan", "--internal", "--subnet", "10.9.0.0/16", "--ip-range", ip_range,
        "-o", "vni=42", "-o", f"remotes={','.join(ADDRESSES)}", "shop",
    )  # fmt: skip


SERVE = "while :; do echo served by $HOSTNAME | nc -l -p 80; done"


def test_containers_of_two_engines(machines: tuple[Daemon, Daemon]) -> None:
    one, two = machines
    create(one, "10.9.1.0/24")
    create(two, "10.9.2.0/24")
    one.docker("run", "-d", "--network", "shop", "--ip", "10.9.1.10", "--name", "db", "--hostname", "db", "busybox", "sh", "-c", SERVE)
    ask = ["run", "--rm", "--network", "shop", "--add-host", "db:10.9.1.10", "busybox", "sh", "-c"]
    assert two.docker(*ask, "until nc -w 2 db 80; do :; done").stdout == b"served by db\n"
    assert two.docker(*ask, "ip route").stdout.split()[:1] == [b"10.9.0.0/16"], "it has no way out"
    seen = json.loads(one.docker("network", "inspect", "shop").stdout)[0]
    assert seen["Driver"] == "vxlan" and [c["Name"] for c in seen["Containers"].values()] == ["db"]


def test_a_way_out_and_ports_by_a_bridge_network(machines: tuple[Daemon, Daemon]) -> None:
    one, two = machines
    create(one, "10.9.1.0/24")
    create(two, "10.9.2.0/24")
    one.docker("network", "create", "out")
    web = ["run", "-d", "--network", "shop", "--network", "out", "-p", "8080:80", "--hostname", "web", "busybox", "sh", "-c", SERVE]
    one.docker(*web)
    fetch = ["curl", "-s", "--http0.9", "--retry", "10", "--retry-all-errors", "--retry-delay", "0", f"http://{ADDRESSES[0]}:8080"]
    assert two.run(*fetch).stdout == b"served by web\n"


def test_a_stream_between_machines_goes_on_when_a_daemon_is_killed(machines: tuple[Daemon, Daemon]) -> None:
    one, two = machines
    create(one, "10.9.1.0/24")
    create(two, "10.9.2.0/24")
    one.docker("run", "-d", "--network", "shop", "--ip", "10.9.1.10", "--name", "sink", "busybox", "sh", "-c", "tail -f /dev/null | nc -l -p 80 > /got")
    send = "sleep 0.2; n=0; while [ ! -e /enough ]; do n=$((n+1)); echo $n; sleep 0.01; done | tee /sent | nc 10.9.1.10 80; touch /done; exec sleep 99"
    two.docker("run", "-d", "--network", "shop", "--name", "source", "busybox", "sh", "-c", send)

    def got() -> bytes:
        return one.docker("exec", "sink", "cat", "/got").stdout

    wait_until(lambda: got().count(b"\n") > 20, "the stream has begun")
    for machine in machines:
        machine.kill()
        machine.start()
    before = got().count(b"\n")
    wait_until(lambda: got().count(b"\n") > before + 20, "the stream goes on")
    two.docker("exec", "source", "touch", "/enough")
    sent = two.docker("exec", "source", "sh", "-c", "until [ -e /done ]; do sleep 0.01; done; cat /sent").stdout
    wait_until(lambda: len(got()) >= len(sent), "all has come")
    assert got() == sent


WRONG = {
    "-o remotes=192.0.2.2": "vni is missing: a number from 1 to 16777215",
    "-o vni=7": "-o remotes=ADDRESS",
    "-o vni=7 -o remotes=203.0.113.9": "no route to machine 203.0.113.9",
}


def test_what_is_wrong_is_told_and_nothing_is_left(machines: tuple[Daemon, Daemon]) -> None:
    one, _ = machines

    def links() -> set[str]:
        listed = json.loads(one.run("ip", "-json", "link").stdout)
        return {link["ifname"] for link in listed if link["ifname"].startswith(("sx-", "st-", "se-"))}

    for options, words in WRONG.items():
        refused = one.docker("network", "create", "-d", "vxlan", *options.split(), "shop", check=1)
        assert words in refused.stderr.decode()
        assert links() == set()
    create(one, "10.9.1.0/24")
    one.docker("run", "-d", "--network", "shop", "--name", "db", "busybox", "sleep", "99")
    assert len(links()) == 3
    refused = one.docker("network", "rm", "shop", check=1)
    assert b"active endpoints" in refused.stderr
    one.docker("rm", "-f", "db")
    one.docker("network", "rm", "shop")
    wait_until(lambda: not links(), "no links")
    assert b"sampan_vxlan" not in one.run("nft", "list", "tables").stdout
