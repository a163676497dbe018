from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from ground.waiting import wait_until
from sampan.api.errors import Conflict, InvalidArgument, Unavailable, Unsupported
from sampan.api.network import PortMapping, Subnet
from sampan.linux.netlink import (
    Netlink,
    add_address,
    add_bridge,
    add_veth,
    delete_link,
    link_index,
    set_link,
    settle_link,
)  # fmt: skip
from sampan.linux.uppers import Macvlan, add_altname, add_macvlan, add_vlan, macvlans, namespace_ids
from sampan.testing.namespaces import Namespace, listen, reaches, unreachable
from sampan.testing.network import HOST, HOST6, OUTSIDE, OUTSIDE6, Lab, NetworkDriverSuite, address6_of, address_of
from sampan.testing.network_ground import ENGINE, OTHER_ENGINE, change, mac_of_link
from sampan_network_macvlan import links
from sampan_network_macvlan.driver import MacvlanDriver

MTU = "com.docker.network.driver.mtu"
FAR = "198.51.100.9"


class TestAmongThemselves(NetworkDriverSuite):
    """Networks that name no parent: all of the contract but a way out."""

    driver_class = MacvlanDriver
    has_default_network = False


class ParentLab(Lab):
    """Each network on a parent of its own, that leads to a stub of its own outside."""

    def options(self, number: int) -> Mapping[str, str]:
        name = f"up{number}"
        change(self.host, add_veth(name, peer=f"wire{number}", netns=self.outside.fd))
        change(self.outside, set_link(f"wire{number}", up=True))
        return {"parent": name}


class TestOnParents(NetworkDriverSuite):
    """Networks that stand on links of the host's."""

    driver_class = MacvlanDriver
    lab_class = ParentLab
    has_default_network = False

    def test_an_internal_network_has_no_outside(self, lab: Lab) -> None:
        """What leads out can't be kept in, and is refused."""
        with pytest.raises(InvalidArgument, match="internal, and its parent up1 leads out"):
            lab.network(internal=True)

    def test_open_makes_what_is_missing(self, lab: Lab) -> None:
        """A parent is not the driver's to make: until it is there, its network waits, and is told of."""
        network = lab.network()
        change(lab.host, delete_link("up1"))
        lab.driver = lab.start(network)
        assert any("up1 is missing" in line for line in lab.host.run(lab.driver.obstacles))
        with pytest.raises(Unavailable, match="up1 was not found"):
            lab.container(network)
        change(lab.host, add_veth("up1", peer="again", netns=lab.outside.fd))
        sandbox, endpoint, _ = lab.container(network)
        assert lab.check(network, endpoint, sandbox) == ()
        assert lab.host.run(lab.driver.obstacles) == ()


class WireLab(Lab):
    """Networks on `uplink`, in the address range that host and outside have there; outside is the router."""

    def options(self, number: int) -> Mapping[str, str]:
        return {"parent": "uplink"}

    def subnets(self, number: int) -> tuple[Subnet, ...]:
        return Subnet("192.0.2.0/24", OUTSIDE), Subnet("2001:db8::/64", OUTSIDE6)


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[WireLab]:
    with ExitStack() as stack:
        yield WireLab(MacvlanDriver, {}, tmp_path, stack)


def inside(sandbox: Namespace, interface: str = "eth0") -> Macvlan:
    with sandbox.run(Netlink) as kernel:
        return next(link for link in macvlans(kernel) if link.name == interface)


def index(where: Namespace, name: str) -> int:
    return where.run(link_index, name)


def has_vlans(lab: Lab) -> bool:
    try:
        change(lab.host, add_vlan("trial", lower=index(lab.host, "uplink"), number=7), delete_link("trial"))
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP
        return False
    return True


# ---------------------------------------------------------------- packets


def test_a_container_is_a_machine_on_the_wire(wire: WireLab) -> None:
    network = wire.network(versions=(4, 6))
    one, first, _ = wire.container(network)
    with listen(one, 80) as server:
        assert reaches(wire.outside, address_of(first), 80, server) == OUTSIDE
    with listen(one, 80, family=6) as server:
        assert reaches(wire.outside, address6_of(first), 80, server) == OUTSIDE6
    with listen(wire.outside, 82) as server:
        assert reaches(one, OUTSIDE, 82, server) == address_of(first), "nobody translates its address"
    with listen(wire.outside, 82, family=6) as server:
        assert reaches(one, OUTSIDE6, 82, server) == address6_of(first)


def test_the_gateway_is_a_router_on_the_wire(wire: WireLab) -> None:
    one, first, _ = wire.container(wire.network())
    change(wire.outside, set_link("lo", up=True), add_address(index(wire.outside, "lo"), f"{FAR}/32"))
    with listen(wire.outside, 82) as server:
        assert reaches(one, FAR, 82, server) == address_of(first)


def test_the_host_is_not_on_it(wire: WireLab) -> None:
    one, first, _ = wire.container(wire.network(versions=(4, 6)))
    with listen(one, 80) as server:
        assert unreachable(wire.host, address_of(first), 80, server)
    with listen(wire.host, 81) as server:
        assert unreachable(one, HOST, 81, server)
    with listen(wire.host, 81, family=6) as server:
        assert unreachable(one, HOST6, 81, server)


@pytest.mark.parametrize("mode", ["bridge", "private", "vepa"])
@pytest.mark.parametrize("reflects", [False, True])
def test_whom_a_mode_joins(wire: WireLab, mode: str, reflects: bool) -> None:
    """A switch that sends packets back where they came from joins containers in mode vepa, and in no other."""
    network = wire.network(options={"macvlan_mode": mode})
    one, _, _ = wire.container(network)
    two, second, _ = wire.container(network)
    if reflects:
        change(wire.outside, add_bridge("switch"), set_link("switch", up=True))
        change(wire.outside, set_link("wire", master=index(wire.outside, "switch")), set_link("wire", hairpin=True))
        change(wire.outside, settle_link("wire"), settle_link("switch"))
    with listen(two, 80) as server:
        if mode == "bridge" or (mode == "vepa" and reflects):
            assert reaches(one, address_of(second), 80, server)
        else:
            assert unreachable(one, address_of(second), 80, server)


def test_networks_may_share_a_parent_and_are_then_one_wire(wire: WireLab) -> None:
    left, right = wire.network(), wire.network()
    one, _, _ = wire.container(left)
    two, second, _ = wire.container(right)
    with listen(two, 80) as server:
        assert reaches(one, address_of(second), 80, server)
        wire.host.run(wire.driver.delete_network, left)
        assert reaches(wire.outside, address_of(second), 80, server)


def test_neighbours_hear_at_once_that_an_address_has_moved(wire: WireLab) -> None:
    network = wire.network(versions=(4, 6))
    one, first, _ = wire.container(network, mac="02:42:00:00:00:01")
    for family, address in ((4, address_of(first)), (6, address6_of(first))):
        with listen(one, 80, family=family) as server:
            assert reaches(wire.outside, address, 80, server)
    wire.detach(network, first)
    two = wire.namespace()
    wire.attach(network, replace(first, id="ab" * 32, mac="02:42:00:00:00:02"), two)
    for family, address in ((4, address_of(first)), (6, address6_of(first))):
        with listen(two, 80, family=family) as server:
            assert reaches(wire.outside, address, 80, server), "to forget a neighbour takes longer than this waits"


def test_a_hardware_address_is_free_once_its_sandbox_ends(wire: WireLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel keeps it a while longer: the next container waits for that, and not for one that lives."""
    monkeypatch.setattr(links, "_PATIENCE", 3600.0)  # who waits for one that lives waits for the end of this test
    network = wire.network()
    sandbox, endpoint, _ = wire.container(network)
    second = replace(endpoint, id="ab" * 32)
    for _ in range(5):
        with pytest.raises(Conflict, match="hardware address is in use"):
            wire.attach(network, second, wire.namespace())
        sandbox.close()
        wire.detach(network, endpoint)
        sandbox = wire.namespace()
        wire.attach(network, endpoint, sandbox)


# ---------------------------------------------------------------- passthru


def test_passthru_has_the_parent_to_itself(wire: WireLab) -> None:
    network = wire.network(options={"macvlan_mode": "passthru"})
    mac = mac_of_link(wire.host, "uplink")
    one, first, made = wire.container(network)
    assert made.mac == inside(one).mac == mac
    with listen(one, 80) as server:
        assert reaches(wire.outside, address_of(first), 80, server) == OUTSIDE
    with pytest.raises(Conflict, match="no more links in mode passthru"):
        wire.container(network)
    wire.detach(network, first)
    two, second, _ = wire.container(network)
    two.close()
    wire.detach(network, second)
    wire.container(network)


def test_passthru_with_another_hardware_address_lends_it_to_the_parent(wire: WireLab) -> None:
    network = wire.network(options={"macvlan_mode": "passthru"})
    own, asked = mac_of_link(wire.host, "uplink"), "02:42:00:00:be:ef"
    one, first, made = wire.container(network, mac=asked)
    assert made.mac == inside(one).mac == mac_of_link(wire.host, "uplink") == asked
    wire.detach(network, first)
    assert mac_of_link(wire.host, "uplink") == own


@pytest.mark.parametrize("modes", [("bridge", "passthru"), ("passthru", "bridge"), ("passthru", "passthru")])
def test_passthru_shares_its_parent_with_no_network(wire: WireLab, modes: tuple[str, str]) -> None:
    first = wire.network(options={"macvlan_mode": modes[0]})
    with pytest.raises(Conflict, match=f"network {first.name} is already using parent interface uplink"):
        wire.network(options={"macvlan_mode": modes[1]})
    wire.host.run(wire.driver.delete_network, first)
    wire.network(options={"macvlan_mode": modes[1]})


def test_passthru_of_somebody_else_is_found_before_a_container_starts(wire: WireLab) -> None:
    change(wire.host, add_macvlan("theirs", lower=index(wire.host, "uplink"), mode="passthru"))
    with pytest.raises(Conflict, match="parent uplink takes no more links in mode bridge"):
        wire.network()


# ---------------------------------------------------------------- options and parents


def test_a_bad_option_makes_nothing(wire: WireLab) -> None:
    before = wire.host.links()
    for options, words in (
        ({"parent": "lo"}, "loopback interface is not a valid macvlan parent link"),
        ({"parent": "a/b"}, "is no link name"),
        ({"macvlan_mode": "source"}, "requested macvlan mode 'source' is not valid"),
        ({MTU: "12"}, "is no MTU"),
        ({MTU: "9000"}, "more than parent uplink has"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            wire.network(options=options)
    for parent in ("nosuch0", "nosuch0.5", "uplink.5000"):
        with pytest.raises(Unavailable, match="was not found on this host"):
            wire.network(options={"parent": parent})
    assert wire.host.links() == before


def test_a_port_of_a_bridge_is_no_parent(wire: WireLab) -> None:
    change(wire.host, add_bridge("br7"), set_link("br7", up=True))
    change(wire.host, set_link("uplink", master=index(wire.host, "br7")))
    with pytest.raises(Conflict, match="port of a bridge"):
        wire.network()
    network = wire.network(options={"parent": "br7"})
    sandbox, endpoint, _ = wire.container(network)
    with listen(sandbox, 80) as server:
        assert reaches(wire.outside, address_of(endpoint), 80, server) == OUTSIDE


def test_mtu_and_hardware_address(wire: WireLab) -> None:
    sandbox, endpoint, made = wire.container(wire.network(options={MTU: "1400"}), ipv4="192.0.2.77/24")
    assert (made.mtu, made.mac) == (inside(sandbox).mtu, inside(sandbox).mac) == (1400, "02:42:c0:00:02:4d")


def test_ports_are_discarded_at_attach_and_refused_later(wire: WireLab) -> None:
    network, port = wire.network(), PortMapping("tcp", 80, 8080)
    _, endpoint, made = wire.container(network, ports=(port,))
    assert made.ports == ()
    with pytest.raises(Unsupported, match="no ports of the host"):
        wire.host.run(wire.driver.publish, network, endpoint, [port])


def test_a_vlan_is_made_and_removed_or_refused_by_name(wire: WireLab) -> None:
    before = wire.host.links()
    if not has_vlans(wire):
        with pytest.raises(Unsupported, match=r"make VLAN link uplink\.10: this kernel has no 802.1Q.*modprobe 8021q"):
            wire.network(options={"parent": "uplink.10"})
        assert wire.host.links() == before
        return
    first, second = (wire.network(options={"parent": "uplink.10"}) for _ in range(2))
    change(wire.outside, add_vlan("wire.10", lower=index(wire.outside, "wire"), number=10), set_link("wire.10", up=True))
    change(wire.outside, add_address(index(wire.outside, "wire.10"), "10.10.0.9/24"))
    subnet = Subnet("10.10.0.0/24", "10.10.0.9")
    one, endpoint, _ = wire.container(replace(first, subnets=(subnet,)))
    with listen(one, 80) as server:
        assert reaches(wire.outside, address_of(endpoint), 80, server) == "10.10.0.9"
    with pytest.raises(Conflict, match=f"uplink.10 is another engine's .*{ENGINE}"):
        wire.host.run(wire.start(engine=OTHER_ENGINE).create_network, second)
    assert wire.host.run(wire.driver.gc, [second], []) != ()  # the endpoint, not the parent
    wire.host.run(wire.driver.delete_network, first)
    assert "uplink.10" in wire.host.links()
    change(wire.host, set_link("uplink.10", up=False))
    wire.driver = wire.start(second)
    assert wire.host.run(wire.driver.obstacles) == ()
    wire.host.run(wire.driver.delete_network, second)
    assert wire.host.links() == before


def test_a_link_with_the_name_of_a_parent_to_be_made(wire: WireLab) -> None:
    network = replace(wire.describe(), options={})
    change(wire.host, add_bridge(f"sm-{ENGINE[:4]}-{network.id[:6]}"))
    with pytest.raises(Conflict, match="without a mark"):
        wire.host.run(wire.driver.create_network, network)


# ---------------------------------------------------------------- detach, check, gc


def test_detach_takes_the_link_from_a_sandbox_that_lives_on(wire: WireLab) -> None:
    left, right = wire.network(), wire.network()
    sandbox, first, _ = wire.container(left)
    second = wire.endpoint(right, interface="eth1", gateway_for=())
    wire.attach(right, second, sandbox)
    for _ in range(2):
        wire.detach(left, first)
    assert sandbox.links() == {"lo", "eth1"}
    assert wire.check(right, second, sandbox) == ()
    wire.attach(left, first, sandbox)
    assert wire.check(left, first, sandbox) == ()


def test_detach_finds_a_link_that_the_container_has_renamed(wire: WireLab) -> None:
    network = wire.network()
    sandbox, endpoint, _ = wire.container(network)
    change(sandbox, set_link("eth0", up=False))
    sandbox.run(subprocess.run, ["ip", "link", "set", "eth0", "name", "mine"], check=True)
    change(sandbox, add_altname("mine", "zzz"))
    assert wire.host.run(wire.driver.gc, [network], [endpoint]) == ()
    wire.detach(network, endpoint)
    assert sandbox.links() == {"lo"}


def test_check_finds_what_a_container_did_to_its_link(wire: WireLab) -> None:
    network = wire.network(options={"macvlan_mode": "private"})
    sandbox, endpoint, _ = wire.container(network)
    sandbox.run(subprocess.run, ["ip", "link", "set", "eth0", "type", "macvlan", "mode", "bridge"], check=True)
    assert wire.check(network, endpoint, sandbox) == ("link eth0 is in mode bridge, the network in mode private",)
    mark = inside(sandbox).altnames[0]
    sandbox.run(subprocess.run, ["ip", "link", "property", "del", "dev", "eth0", "altname", mark], check=True)
    assert any("lost its name" in line for line in wire.check(network, endpoint, sandbox))


def test_check_finds_a_parent_that_is_down(wire: WireLab) -> None:
    network = wire.network()
    sandbox, endpoint, _ = wire.container(network)
    change(wire.host, set_link("uplink", up=False))
    assert "parent uplink is down" in wire.check(network, endpoint, sandbox)
    assert wire.host.run(wire.driver.obstacles) == (
        f"network {network.name}: parent uplink is down; to mend it: ip link set uplink up",
    )


def test_gc_takes_forgotten_links_from_sandboxes_that_live_on(wire: WireLab) -> None:
    network = wire.network()
    sandbox, endpoint, _ = wire.container(network)
    change(sandbox, delete_link("eth0"))
    wire.attach(network, endpoint, sandbox)
    lost = wire.endpoint(network, interface="eth1", gateway_for=())
    wire.attach(network, lost, sandbox)
    other = wire.start(engine=OTHER_ENGINE)
    theirs, theirs_endpoint, theirs_sandbox = replace(network, id="0b" * 32), wire.endpoint(network), wire.namespace()
    wire.host.run(other.create_network, theirs)
    wire.host.run(other.attach, theirs, theirs_endpoint, theirs_sandbox.fd)
    uplink = index(wire.host, "uplink")
    change(wire.host, add_macvlan("foreign", lower=uplink), add_macvlan("mv", lower=uplink, netns=sandbox.fd))
    # a daemon that was killed between its two sends
    change(wire.host, add_macvlan("eth2", lower=uplink, netns=sandbox.fd, group=int(ENGINE, 16)))

    removed = wire.host.run(wire.driver.gc, [network], [endpoint])
    assert len(removed) == 2 and any(lost.id in line for line in removed) and any("eth2" in line for line in removed)
    assert sandbox.links() == {"lo", "eth0", "mv"}
    assert "foreign" in wire.host.links()
    assert wire.check(network, endpoint, sandbox) == ()
    assert wire.host.run(other.check, theirs, theirs_endpoint, theirs_sandbox.fd) == ()
    assert wire.host.run(wire.driver.gc, [network], [endpoint]) == ()


def test_ids_of_namespaces_go_with_them(wire: WireLab) -> None:
    """Hundreds of containers leave no more to look through than one."""
    network = wire.network()
    _, endpoint, _ = wire.container(network)
    wire.detach(network, endpoint)
    with wire.host.run(Netlink) as kernel:
        before = len(namespace_ids(kernel))
        for _ in range(20):
            sandbox, endpoint, _ = wire.container(network)
            wire.detach(network, endpoint)
            sandbox.close()
        wait_until(lambda: len(namespace_ids(kernel)) <= before, "twenty namespaces are gone")


def test_the_machines_own_kernel_view_agrees(wire: WireLab) -> None:
    """Our netlink code is judged by somebody else's: pyroute2 sees what `attach` says it made."""
    import pyroute2

    network = wire.network()
    sandbox, endpoint, made = wire.container(network)

    def look() -> dict[str, object]:
        with pyroute2.IPRoute() as kernel:
            link = kernel.get_links(kernel.link_lookup(ifname="eth0")[0])[0]
            info = link.get("linkinfo")
            return {
                "mac": link.get("address"),
                "mtu": link.get("mtu"),
                "kind": info.get("kind"),
                "mode": info.get("data").get("macvlan_mode"),
                "stands on": link.get("link"),
                "group": link.get("group"),
                "gateway": [route.get("gateway") for route in kernel.get_default_routes(family=2)],
            }

    assert sandbox.run(look) == {
        "mac": made.mac, "mtu": made.mtu, "kind": "macvlan", "mode": "bridge", "stands on": index(wire.host, "uplink"),
        "group": int(ENGINE, 16), "gateway": [OUTSIDE],
    }  # fmt: skip
