from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sampan.api.errors import Conflict, InvalidArgument, Unavailable, Unsupported
from sampan.api.network import Attachment, Endpoint, Network, NetworkDriver, PortMapping
from sampan.linux.namespaces import call_in_netns
from sampan.linux.netlink import (
    Netlink,
    add_address,
    add_bridge,
    add_route,
    add_veth,
    delete_link,
    link_index,
    set_link,
)
from sampan.linux.sysctl import get_sysctl, set_sysctl
from sampan.linux.vxlan import flood_list
from sampan.testing.namespaces import Namespace, listen, reaches, unreachable
from sampan.testing.network import HOST, HOST6, OUTSIDE, OUTSIDE6, Lab, NetworkDriverSuite, address6_of, address_of
from sampan.testing.network_ground import change, forge, mac_of_link, udp_packet
from sampan_network_vxlan import links
from sampan_network_vxlan.driver import VxlanDriver

MTU = "com.docker.network.driver.mtu"


class TunnelLab(Lab):
    """The neighbour outside is the other machine of every network."""

    def options(self, number: int) -> Mapping[str, str]:
        return {"vni": str(number), "remotes": OUTSIDE}


class TestVxlan(NetworkDriverSuite):
    driver_class = VxlanDriver
    lab_class = TunnelLab
    has_default_network = False


# ---------------------------------------------------------------------- two machines


@dataclass
class Machine:
    """A host with a driver of its own, as seen by a user who types the same commands on each."""

    where: Namespace
    driver: NetworkDriver
    lab: Lab

    def create(self, network: Network) -> None:
        self.where.run(self.driver.create_network, network)

    def container(self, network: Network, **changes: Any) -> tuple[Namespace, Endpoint, Attachment]:
        sandbox, endpoint = self.lab.namespace(), self.lab.endpoint(network, **changes)
        return sandbox, endpoint, self.where.run(self.driver.attach, network, endpoint, sandbox.fd)

    def detach(self, network: Network, endpoint: Endpoint) -> None:
        self.where.run(self.driver.detach, network, endpoint)

    def check(self, network: Network, endpoint: Endpoint, sandbox: Namespace) -> tuple[str, ...]:
        return self.where.run(self.driver.check, network, endpoint, sandbox.fd)


@pytest.fixture
def lab(tmp_path: Path) -> Any:
    with ExitStack() as stack:
        yield TunnelLab(VxlanDriver, {}, tmp_path, stack)


@pytest.fixture
def here(lab: Lab) -> Machine:
    return Machine(lab.host, lab.driver, lab)


@pytest.fixture
def there(lab: Lab) -> Machine:
    return machine(lab, lab.outside, "0ther000")


def machine(lab: Lab, where: Namespace, engine: str) -> Machine:
    driver = VxlanDriver(replace(lab.driver.context, engine_id=engine), VxlanDriver.config_model()())
    where.run(driver.open, ())
    lab._stack.callback(lambda: where.run(driver.close))
    return Machine(where, driver, lab)


def over(lab: Lab, here: Machine, there: Machine, *, options: Mapping[str, str] | None = None, **changes: Any) -> Network:
    """One network on both machines; each of them is told of both."""
    options = options or {"vni": "4711", "remotes": f"{HOST},{OUTSIDE}"}
    network = replace(lab.describe(**changes), options=options)
    here.create(network)
    there.create(network)
    return network


def test_containers_of_two_machines_reach_each_other(lab: Lab, here: Machine, there: Machine) -> None:
    network = over(lab, here, there, versions=(4, 6))
    one, first, made = here.container(network)
    two, second, _ = there.container(network)
    for protocol in ("tcp", "udp"):
        with listen(two, 80, protocol=protocol) as server:
            assert reaches(one, address_of(second), 80, server) == address_of(first)
        with listen(one, 81, protocol=protocol, family=6) as server:
            assert reaches(two, address6_of(first), 81, server) == address6_of(second)
    assert made.mtu == 1450
    for at, sandbox, endpoint in ((here, one, first), (there, two, second)):
        assert at.check(network, endpoint, sandbox) == ()


UNDERLAYS = {
    "ipv6": {"remotes": f"{HOST6},{OUTSIDE6}"},
    "without learning": {"remotes": f"{HOST},{OUTSIDE}", "learning": "false"},
    "another port": {"remotes": f"{HOST},{OUTSIDE}", "port": "8472"},
}


@pytest.mark.parametrize("options", UNDERLAYS.values(), ids=UNDERLAYS)
def test_other_underlays(lab: Lab, here: Machine, there: Machine, options: Mapping[str, str]) -> None:
    network = over(lab, here, there, options={"vni": "4711", **options})
    one, first, made = here.container(network)
    two, second, _ = there.container(network)
    assert made.mtu == (1430 if ":" in options["remotes"] else 1450)
    with listen(two, 80) as server:
        assert reaches(one, address_of(second), 80, server) == address_of(first)


def test_ipv6_only(lab: Lab, here: Machine, there: Machine) -> None:
    network = over(lab, here, there, versions=(6,))
    one, first, made = here.container(network)
    two, second, _ = there.container(network)
    assert made.mac == mac_of_link(one, "eth0") != mac_of_link(two, "eth0")
    with listen(two, 80, family=6) as server:
        assert reaches(one, address6_of(second), 80, server) == address6_of(first)


def test_a_multicast_group_finds_the_machines(lab: Lab, here: Machine, there: Machine) -> None:
    network = lab.describe()
    for at, parent in ((here, "uplink"), (there, "wire")):
        at.create(replace(network, options={"vni": "4711", "group": "239.1.1.1", "parent": parent}))
    one, first, _ = here.container(network)
    two, second, _ = there.container(network)
    with listen(two, 80) as server:
        assert reaches(one, address_of(second), 80, server) == address_of(first)


THIRD, THIRD6 = ("198.51.100.1", "198.51.100.9"), ("2001:db8:3::1", "2001:db8:3::9")


def behind(lab: Lab) -> Namespace:
    """Give a machine on another wire of the host's, which forwards."""
    third = lab.namespace()

    def near() -> None:
        with Netlink() as kernel:
            kernel.run(add_veth("uplink3", peer="wire", netns=third.fd))
            index = link_index("uplink3")
            kernel.run(add_address(index, f"{THIRD[0]}/24"), add_address(index, f"{THIRD6[0]}/64"))
        for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            set_sysctl(switch, "1")

    def far() -> None:
        with Netlink() as kernel:
            index = link_index("wire")
            kernel.run(set_link("lo", up=True), set_link(index, up=True))
            kernel.run(add_address(index, f"{THIRD[1]}/24"), add_address(index, f"{THIRD6[1]}/64"))
            kernel.run(add_route("0.0.0.0/0", gateway=THIRD[0], index=index), add_route("::/0", gateway=THIRD6[0], index=index))

    lab.host.run(near)
    third.run(far)
    change(lab.outside, add_route("198.51.100.0/24", gateway=HOST))
    return third


def test_three_machines_flood_to_each(lab: Lab, here: Machine, there: Machine) -> None:
    """One of them has two addresses, and is known to the others by one."""
    elsewhere = machine(lab, behind(lab), "7h1rd000")
    network = over(lab, here, there, options={"vni": "4711", "remotes": f"{HOST},{OUTSIDE},{THIRD[1]}"})
    elsewhere.create(network)
    one, first, _ = here.container(network)
    two, second, _ = there.container(network)
    three, _, _ = elsewhere.container(network)
    for sandbox, endpoint in ((one, first), (two, second)):
        with listen(sandbox, 80) as server:
            assert reaches(three, address_of(endpoint), 80, server)


@pytest.mark.parametrize("family", [4, 6])
def test_a_container_that_moves_is_found_at_its_new_machine(lab: Lab, here: Machine, there: Machine, family: int) -> None:
    """It does not have to say a word itself: its start is announced to the machines."""
    network = over(lab, here, there, versions=(family,))  # of both versions, one speaks for the other
    address = address_of if family == 4 else address6_of
    one, _, _ = here.container(network)
    two, second, _ = there.container(network)
    with listen(two, 80, family=family) as server:
        assert reaches(one, address(second), 80, server)
    there.detach(network, second)
    moved = lab.namespace()
    lab.host.run(here.driver.attach, network, second, moved.fd)
    with listen(moved, 80, family=family) as server:
        assert reaches(one, address(second), 80, server)


def test_a_large_transfer_is_not_cut(lab: Lab, here: Machine, there: Machine) -> None:
    """Whole frames of the network's MTU pass the tunnel, each with its checksum, in both directions."""
    network = over(lab, here, there)
    one, _, _ = here.container(network)
    two, second, _ = there.container(network)
    data = bytes(range(256)) * 8192
    with listen(two, 80) as server, one.run(socket.create_connection, (address_of(second), 80), 5) as out:
        into, _ = server.accept()
        with into, ThreadPoolExecutor(1) as pool:
            for sender, receiver in ((out, into), (into, out)):
                receiver.settimeout(5)
                sent = pool.submit(sender.sendall, data)
                assert receive(receiver, len(data)) == data
                sent.result()


def receive(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = stream.recv(size - len(data))
        assert piece
        data += piece
    return data


# ---------------------------------------------------------------------- who is not in the network


def flush(lab: Lab) -> None:
    """What an administrator's firewall does that is loaded anew."""
    lab.host.run(subprocess.run, ["nft", "flush", "ruleset"], check=True)


def bridge_mac(lab: Lab, network: Network) -> str:
    return mac_of_link(lab.host, links.names(lab.driver.context.engine_id, network.id).bridge)


def test_the_host_has_no_address_in_the_network_and_answers_for_none(lab: Lab) -> None:
    network = lab.network(versions=(4, 6))
    sandbox, _, _ = lab.container(network)
    _, neighbour, _ = lab.container(network)
    change(sandbox, add_route(f"{HOST}/32", index=sandbox.run(link_index, "eth0")))
    with listen(lab.host, 80) as server:
        assert unreachable(sandbox, HOST, 80, server)
    assert [who_has(sandbox, address) for address in (HOST, address_of(neighbour))] == ["", address_of(neighbour)]
    with lab.host.run(Netlink) as kernel:
        bare = {link.index for link in kernel.links() if link.name.startswith(("sx-", "st-"))}
        assert len(bare) == 2 and not bare & {item.index for item in kernel.addresses()}


def who_has(sandbox: Namespace, address: str) -> str:
    """Send an ARP probe, as somebody who has no address yet (RFC 5227); give the address that answers, or ""."""
    mac = bytes.fromhex(mac_of_link(sandbox, "eth0").replace(":", ""))
    probe = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, bytes(4), bytes(6), socket.inet_aton(address))
    with sandbox.run(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0806)) as wire:
        wire.settimeout(0.4)
        wire.sendto(probe, ("eth0", 0x0806, 0, 0, b"\xff" * 6))
        with suppress(TimeoutError):
            while True:
                answer = struct.unpack("!HHBBH6s4s6s4s", wire.recv(64)[:28])
                if answer[4] == 2 and answer[6] == socket.inet_aton(address):
                    return socket.inet_ntoa(answer[6])
    return ""


@pytest.mark.parametrize(("flushed", "loose"), [(False, False), (True, False), (True, True)])
def test_the_host_takes_nothing_from_the_network(lab: Lab, flushed: bool, loose: bool) -> None:
    """Not even from a container that has found out the bridge's hardware address, and where systemd has made rp_filter loose."""
    network = lab.network()
    lab.host.run(set_sysctl, "ipv4/conf/all/rp_filter", "2" if loose else "0")
    sandbox, endpoint, _ = lab.container(network)
    mac = bridge_mac(lab, network)
    if flushed:
        flush(lab)
    with listen(lab.host, 7777, protocol="udp") as server:
        for source in (address_of(endpoint), OUTSIDE, *([] if flushed else ["0.0.0.0"])):
            for target in (HOST, "255.255.255.255", "127.0.0.1"):
                forge(sandbox, "eth0", mac, (source, target), 7777, b"forged")
        lab.host.run(send, "127.0.0.1", 7777, b"own")
        assert server.recv(16) == b"own", "a forged packet got in"


def send(address: str, port: int, data: bytes) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.sendto(data, (address, port))


def test_a_host_that_forwards_routes_nothing_out_of_the_network(lab: Lab) -> None:
    """Turned on after the network was made, for all links, and with no rule in the way."""
    network = lab.network()
    sandbox, endpoint, _ = lab.container(network)
    lab.host.run(Path("/proc/sys/net/ipv4/ip_forward").write_text, "1")
    flush(lab)
    with listen(lab.outside, 7777, protocol="udp") as server:
        for source in (address_of(endpoint), OUTSIDE, "0.0.0.0"):
            forge(sandbox, "eth0", bridge_mac(lab, network), (source, OUTSIDE), 7777, b"forged")
        lab.host.run(send, OUTSIDE, 7777, b"allowed")
        assert server.recv(16) == b"allowed", "a forged packet got out"


def tunnelled(vni: int, frame: bytes) -> bytes:
    """RFC 7348, section 5."""
    return struct.pack("!II", 1 << 27, vni << 8) + frame


def hello(to: Endpoint) -> bytes:
    """A broadcast frame with a UDP packet for port 9 of an endpoint."""
    packet = udp_packet(("10.1.0.99", address_of(to)), 9, b"forged")
    return b"\xff" * 6 + bytes.fromhex("020000000099") + b"\x08\x00" + packet


WAYS_IN = {
    "remotes": {"remotes": OUTSIDE},
    "group": {"group": "239.1.1.1", "parent": "uplink"},
    "remotes by ipv6": {"remotes": OUTSIDE6},
    "group by ipv6": {"group": "ff05::100", "parent": "uplink"},
}


@pytest.mark.parametrize("options", WAYS_IN.values(), ids=WAYS_IN)
def test_only_machines_of_the_network_get_a_frame_in(lab: Lab, options: Mapping[str, str]) -> None:
    """A container behind the host, as of a bridge network, sends to the tunnel's port: of its own host and of the other."""
    by_ipv6 = ":" in "".join(options.values())
    host, near, other = (HOST6, THIRD6[0], OUTSIDE6) if by_ipv6 else (HOST, THIRD[0], OUTSIDE)
    stranger = behind(lab)
    network = replace(lab.describe(), options={"vni": "4711", **options})
    lab.host.run(lab.driver.create_network, network)
    sandbox, endpoint, _ = lab.container(network)
    with listen(sandbox, 9, protocol="udp") as server, listen(lab.outside, 4789, protocol="udp", family=6 if by_ipv6 else 4) as tunnel:
        frame = tunnelled(4711, hello(endpoint))
        for address in (host, near, other):
            stranger.run(send, address, 4789, frame)
        stranger.run(send, other, 4789, tunnelled(4712, b"another network's"))
        while (packet := tunnel.recv(200)) != tunnelled(4712, b"another network's"):
            assert b"forged" not in packet, "the host let a forged frame pass to the other machine"
        lab.outside.run(send, host, 4789, tunnelled(4711, hello(endpoint).replace(b"forged", b"lawful")))
        assert server.recv(16) == b"lawful", "a forged frame got in"


# ---------------------------------------------------------------------- damage, restarts


def test_a_restart_mends_what_is_missing_and_nothing_else(lab: Lab, here: Machine, there: Machine) -> None:
    network = over(lab, here, there)
    one, first, made = here.container(network)
    two, second, _ = there.container(network)
    name = links.names(here.driver.context.engine_id, network.id)
    tunnel_before = lab.host.run(link_index, name.tunnel)
    for damage, words in (
        (["ip", "link", "set", name.tunnel, "nomaster"], f"link {name.tunnel} is not in bridge"),
        (["ip", "link", "set", name.bridge, "down"], f"link {name.bridge} is down"),
        (["ip", "link", "set", made.host_interface, "nomaster"], f"link {made.host_interface} is not in bridge"),
        (["bridge", "fdb", "del", "00:00:00:00:00:00", "dev", name.tunnel, "dst", OUTSIDE], f"no way to {OUTSIDE}"),
        (["nft", "delete", "table", "inet", "sampan_vxlan_5a3bca7e"], "rules of network"),
        (["nft", "flush", "chain", "inet", "sampan_vxlan_5a3bca7e", "passing"], "rules of network"),
    ):
        lab.host.run(subprocess.run, damage, check=True)
        assert any(words in line for line in here.check(network, first, one)), words
        assert len(lab.host.run(here.driver.repair, network, first)) == 1
        assert lab.host.run(here.driver.repair, network, first) == ()
        assert here.check(network, first, one) == ()
    assert lab.host.run(link_index, name.tunnel) == tunnel_before
    for gone in (name.tunnel, name.bridge):
        change(lab.host, delete_link(gone))
        here.driver = lab.start(network)  # killed, and started again
        lab.host.run(here.driver.repair, network, first)
        assert here.check(network, first, one) == ()
        with listen(two, 80) as server:
            assert reaches(one, address_of(second), 80, server)


def test_a_restart_while_the_way_out_is_missing(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """As at boot, before the machine's own network is up: other networks work, and this one as soon as it can."""
    waiting = lab.describe(options={"remotes": "203.0.113.9"})
    fine = lab.describe()
    lab.driver = lab.start(waiting, fine)
    assert f"network {waiting.name} is not made or mended: this host has no route to machine 203.0.113.9" in caplog.text
    lab.container(fine)
    with pytest.raises(Unavailable, match="no route to machine 203.0.113.9"):
        lab.container(waiting)
    change(lab.host, add_route("203.0.113.0/24", gateway=OUTSIDE))
    sandbox, endpoint, _ = lab.container(waiting)
    assert lab.check(waiting, endpoint, sandbox) == ()


def test_gc_keeps_the_guard_of_valid_networks_only(lab: Lab) -> None:
    def guarded() -> str:
        return lab.host.run(subprocess.run, ["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout

    kept, forgotten = lab.network(), lab.network()
    orphans = lab.host.run(lab.driver.orphans, [kept], [])
    assert forgotten.id in guarded(), "to name them is not to remove them"
    assert lab.host.run(lab.driver.gc, [kept], []) == orphans
    assert [word for line in orphans for word in ("sx-", "st-", "rules") if word in line] == ["st-", "sx-", "rules"]
    assert lab.host.run(lab.driver.orphans, [kept], []) == ()
    assert kept.id in guarded() and forgotten.id not in guarded()
    lab.host.run(lab.driver.gc, [], [])
    assert guarded() == ""


def test_entries_of_another_program_stay(lab: Lab) -> None:
    """Where learning is off, something else fills in the table: it is neither flushed nor called damage."""
    network = replace(lab.describe(), options={"vni": "7", "learning": "false", "parent": "uplink"})
    lab.host.run(lab.driver.create_network, network)
    tunnel = links.names(lab.driver.context.engine_id, network.id).tunnel
    lab.host.run(subprocess.run, ["bridge", "fdb", "append", "00:00:00:00:00:00", "dev", tunnel, "dst", OUTSIDE], check=True)
    lab.driver = lab.start(network)
    sandbox, endpoint, _ = lab.container(network)
    assert lab.check(network, endpoint, sandbox) == ()
    with lab.host.run(Netlink) as kernel:
        assert flood_list(kernel, lab.host.run(link_index, tunnel)) == {OUTSIDE}


def test_links_of_others_by_our_names_are_left_alone(lab: Lab) -> None:
    network = lab.describe()
    name = links.names(lab.driver.context.engine_id, network.id)
    change(lab.host, add_bridge(name.bridge), set_link(name.bridge, alias="sampan 5a3b0000 vxlan network 00"))
    with pytest.raises(Conflict, match="there is one, of sampan 5a3b0000 vxlan network 00"):
        lab.host.run(lab.driver.create_network, network)
    lab.host.run(lab.driver.delete_network, network)
    assert lab.host.links() == {"lo", "uplink", name.bridge}
    endpoint = lab.endpoint(network)
    veth = links.veth_name(lab.driver.context.engine_id, endpoint.id)
    change(lab.host, add_bridge(veth))
    lab.detach(network, endpoint)
    assert veth in lab.host.links()


# ---------------------------------------------------------------------- beside a firewall

FIREWALLS = {
    "own": "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }",
    "docker": "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; };"
    " add chain ip filter DOCKER-USER; add rule ip filter FORWARD counter jump DOCKER-USER",
}


@pytest.mark.parametrize("firewall", FIREWALLS)
def test_a_firewall_that_sees_bridged_packets_is_named_and_its_remedy_helps(lab: Lab, firewall: str) -> None:
    if not lab.host.run(get_sysctl, "bridge/bridge-nf-call-iptables"):
        pytest.skip("this kernel has no br_netfilter loaded")
    lab.host.run(set_sysctl, "bridge/bridge-nf-call-iptables", "1")
    network = lab.network()
    one, _, _ = lab.container(network)
    two, second, _ = lab.container(network)
    assert lab.host.run(lab.driver.obstacles) == ()
    lab.host.run(subprocess.run, ["nft", FIREWALLS[firewall]], check=True)
    (told,) = lab.host.run(lab.driver.obstacles)
    assert "table ip filter, chain FORWARD" in told
    with listen(two, 80) as server:
        assert unreachable(one, address_of(second), 80, server)
    accept, _, other = told.partition(": ")[2].partition("; or, ")
    switch = other.partition(": ")[2]
    for remedy in (accept, switch):
        lab.host.run(subprocess.run, ["nft", f"flush table ip filter; {FIREWALLS[firewall]}"], check=True)
        lab.host.run(subprocess.run, remedy, shell=True, check=True, stdout=subprocess.DEVNULL)
        assert lab.host.run(lab.driver.obstacles) == ()
        with listen(two, 80) as server:
            assert reaches(one, address_of(second), 80, server)


def test_networks_come_and_go_at_once(lab: Lab) -> None:
    networks = [lab.describe() for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:

        def in_host(operation: Callable[[Network], None], network: Network) -> None:
            call_in_netns(lab.host.fd, lambda: operation(network))

        list(pool.map(partial(in_host, lab.driver.create_network), networks))
        sandbox, endpoint, _ = lab.container(networks[-1])
        list(pool.map(partial(in_host, lab.driver.delete_network), networks[:-1]))
    assert lab.check(networks[-1], endpoint, sandbox) == ()
    assert lab.host.run(lab.driver.orphans, networks[-1:], [endpoint]) == ()


# ---------------------------------------------------------------------- options


def test_the_mtu_is_what_the_way_leaves(lab: Lab) -> None:
    change(lab.host, set_link("uplink", mtu=1400))
    assert lab.container(lab.network())[2].mtu == 1350
    assert lab.container(lab.network(options={MTU: "1300"}))[2].mtu == 1300
    with pytest.raises(InvalidArgument, match="at most 1350"):
        lab.network(options={MTU: "1351"})
    change(lab.host, set_link("uplink", mtu=1300))
    with pytest.raises(InvalidArgument, match="IPv6"):
        lab.network(versions=(4, 6))


def test_a_vni_is_taken_once(lab: Lab) -> None:
    """And whose it is does not notice that another asked for it."""
    network, before = lab.network(), lab.host.links()
    rival = replace(lab.describe(), options={**network.options, "remotes": "192.0.2.77"})
    other = lab.start(engine="0ther000")
    for driver in (lab.driver, other):
        with pytest.raises(Conflict, match=r"VNI 1 is taken on UDP port 4789"):
            lab.host.run(driver.create_network, rival)
    assert lab.host.links() == before
    assert "192.0.2.77" not in lab.host.run(subprocess.run, ["nft", "list", "ruleset"], capture_output=True, text=True).stdout
    sandbox, endpoint, _ = lab.container(network)
    assert lab.check(network, endpoint, sandbox) == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [({"parent": "nowhere0"}, "no such link"), ({"local": "203.0.113.7"}, "no such address")],
)  # fmt: skip
def test_what_this_host_does_not_have(lab: Lab, options: Mapping[str, str], words: str) -> None:
    before = lab.host.links()
    with pytest.raises(InvalidArgument, match=words):
        lab.network(options=options)
    assert lab.host.links() == before


def test_ports_are_refused_with_the_way_to_have_them(lab: Lab) -> None:
    network, before = lab.network(), lab.host.links()
    port = PortMapping("tcp", 80, 8080)
    with pytest.raises(Unsupported, match="join a bridge network"):
        lab.container(network, ports=(port,))
    assert lab.host.links() == before
    _, endpoint, _ = lab.container(network)
    with pytest.raises(Unsupported, match="join a bridge network"):
        lab.host.run(lab.driver.publish, network, endpoint, [port])


def test_it_is_explained(lab: Lab) -> None:
    network = lab.network()
    _, endpoint, _ = lab.container(network)
    text = "\n".join(lab.host.run(lab.driver.explain, network, endpoint))
    for words in (OUTSIDE, "VNI 1", "UDP port 4789", "sampan_vxlan_5a3bca7e", "sx-5a3b-000001"):
        assert words in text
    assert "But" not in text
    change(lab.host, set_link("sx-5a3b-000001", up=False))
    assert "But link sx-5a3b-000001 is down." in lab.host.run(lab.driver.explain, network, endpoint)
