"""The network suite: damage, sweeps, restarts and threads."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from sampan.api.errors import Conflict
from sampan.api.network import Endpoint, Network, NetworkCapability, NetworkDriver, PortMapping
from sampan.linux.namespaces import call_in_netns
from sampan.linux.netlink import add_bridge, delete_link, set_link
from sampan.testing.namespaces import Namespace, listen, reaches
from sampan.testing.network_damage import INSIDE, ON_THE_HOST, Damage, Scene
from sampan.testing.network_ground import HOST, OTHER_ENGINE, OUTSIDE, Lab, address_of, change
from sampan.testing.selection import needs


class CrashCases:
    """What is right stays untouched, what is nobody's is swept, and every damage is named."""

    # ------------------------------------------------------------------ check

    @needs(NetworkCapability.ADDRESSES)
    @pytest.mark.parametrize("damage", INSIDE)
    def test_check_names_the_damage_and_repairs_nothing(self, lab: Lab, damage: Damage) -> None:
        """Check names the damage and repairs nothing."""
        scene = Scene.made(lab)
        neighbour, other, _ = lab.container(scene.network)
        assert lab.check(scene.network, scene.endpoint, scene.sandbox) == ()
        damage(scene)
        found = lab.check(scene.network, scene.endpoint, scene.sandbox)
        assert found
        assert lab.check(scene.network, scene.endpoint, scene.sandbox) == found
        assert lab.check(scene.network, other, neighbour) == ()

    @needs(NetworkCapability.PUBLISH)
    def test_check_names_ports_that_are_not_published(self, lab: Lab) -> None:
        """Check names ports that are not published, and those alone."""
        scene = Scene.made(lab)
        more = replace(scene.endpoint, ports=(*scene.endpoint.ports, PortMapping("udp", 53, 5300)))
        (line,) = lab.check(scene.network, more, scene.sandbox)
        assert "5300" in line

    # ------------------------------------------------------------------ repair

    @needs(NetworkCapability.ADDRESSES)
    @pytest.mark.parametrize("damage", ON_THE_HOST)
    def test_repair_mends_the_hosts_side(self, lab: Lab, damage: Damage) -> None:
        """What is missing on the host is made again and named; what is right is not touched.

        Where the endpoint's own link went with it there is nothing to mend: the damage is told.
        """
        scene = Scene.made(lab)
        neighbour, other, _ = lab.container(scene.network)
        damage(scene)
        found = lab.check(scene.network, scene.endpoint, scene.sandbox)
        mended = _repaired(lab, scene.network, scene.endpoint, other)
        if scene.endpoint.interface not in scene.sandbox.links():
            assert lab.check(scene.network, scene.endpoint, scene.sandbox)
            return
        assert bool(mended) is bool(found)
        for endpoint, sandbox in ((scene.endpoint, scene.sandbox), (other, neighbour)):
            assert lab.check(scene.network, endpoint, sandbox) == ()
        assert _repaired(lab, scene.network, scene.endpoint, other) == []
        with listen(scene.sandbox, 80) as server:
            assert reaches(neighbour, address_of(scene.endpoint), 80, server)
            if scene.endpoint.ports:
                assert reaches(lab.outside, HOST, 8080, server)

    # ------------------------------------------------------------------ gc

    @needs(NetworkCapability.ADDRESSES, NetworkCapability.MULTIPLE)
    def test_gc_sweeps_only_what_is_ours_and_unknown(self, lab: Lab) -> None:
        """Gc sweeps only what is ours and unknown."""
        network, forgotten, others = lab.describe(), lab.describe(), lab.describe()
        other = lab.start(engine=OTHER_ENGINE)
        lab.host.run(lab.driver.create_network, network)
        sandbox, endpoint, _ = lab.container(network, ports=lab.ports(PortMapping("tcp", 80, 8080)))
        lab.host.run(other.create_network, others)
        others_endpoint, others_sandbox = lab.endpoint(others), lab.namespace()
        lab.host.run(other.attach, others, others_endpoint, others_sandbox.fd)
        change(lab.host, add_bridge("sp-strange"), set_link("sp-strange", up=True))
        kept = lab.host.links()

        lab.host.run(lab.driver.create_network, forgotten)
        lab.container(forgotten)
        lab.container(network, ports=lab.ports(PortMapping("tcp", 80, 9090)))
        stale = lab.host.links() - kept
        named = lab.host.run(lab.driver.orphans, [network], [endpoint])
        assert lab.host.links() == kept | stale, "to name is not to remove"
        removed = lab.host.run(lab.driver.gc, [network], [endpoint])
        assert lab.host.links() == kept
        if type(lab.driver).orphans is not NetworkDriver.orphans:
            assert set(named) == set(removed)
            assert lab.host.run(lab.driver.orphans, [network], [endpoint]) == ()
        for link in stale:
            assert any(link in line for line in removed)
        assert lab.check(network, endpoint, sandbox) == ()
        assert lab.host.run(other.check, others, others_endpoint, others_sandbox.fd) == ()
        neighbour, _, _ = lab.container(network, ports=lab.ports(PortMapping("tcp", 80, 9090)))
        with listen(sandbox, 80) as server:
            assert reaches(neighbour, address_of(endpoint), 80, server)
            if endpoint.ports:
                assert reaches(lab.outside, HOST, 8080, server)

    @needs(NetworkCapability.ADDRESSES)
    def test_gc_of_what_is_all_valid_removes_nothing(self, lab: Lab) -> None:
        """Gc of what is all valid removes nothing, however often."""
        network = lab.network()
        sandbox, endpoint, _ = lab.container(network, ports=lab.ports(PortMapping("tcp", 80, 8080)))
        before = lab.host.links()
        for _ in range(2):
            assert lab.host.run(lab.driver.gc, [network], [endpoint]) == ()
        assert lab.host.links() == before
        assert lab.check(network, endpoint, sandbox) == ()

    # ------------------------------------------------------------------ restarts

    @needs(NetworkCapability.ADDRESSES)
    def test_a_restart_disturbs_nobody(self, lab: Lab) -> None:
        """A connection between containers goes on when the driver is opened anew, swept and asked to repair."""
        network = lab.network()
        one, first, _ = lab.container(network)
        two, second, _ = lab.container(network)
        with listen(two, 80) as server, one.run(socket.create_connection, (address_of(second), 80), 1) as out:
            into, _ = server.accept()
            with into:
                lab.driver = lab.start(network)  # the first daemon was killed: no close
                assert lab.host.run(lab.driver.gc, [network], [first, second]) == ()
                for endpoint in (first, second):
                    assert lab.host.run(lab.driver.repair, network, endpoint) == ()
                out.sendall(b"still here")
                assert into.recv(16) == b"still here"
        for sandbox, endpoint in ((one, first), (two, second)):
            assert lab.check(network, endpoint, sandbox) == ()

    @needs(NetworkCapability.PUBLISH)
    def test_a_restart_keeps_the_ports(self, lab: Lab) -> None:
        """A connection through a published port goes on, and ports that are taken stay taken."""
        network = lab.network()
        sandbox, endpoint, _ = lab.container(
            network, ports=(PortMapping("tcp", 80, 8080), PortMapping("tcp", 81, 7000, count=5))
        )
        with listen(sandbox, 80) as server, lab.outside.run(socket.create_connection, (HOST, 8080), 1) as out:
            into, _ = server.accept()
            with into:
                lab.driver = lab.start(network)  # the first daemon was killed: no close
                out.sendall(b"still here")
                assert into.recv(16) == b"still here"
                assert reaches(lab.outside, HOST, 8080, server)
        assert lab.check(network, endpoint, sandbox) == ()
        with pytest.raises(Conflict, match="already allocated"):
            lab.container(network, ports=(PortMapping("tcp", 80, 7003),))
        lab.detach(network, endpoint)
        lab.container(network, ports=(PortMapping("tcp", 80, 7003), PortMapping("tcp", 80, 8080)))

    @needs(NetworkCapability.ADDRESSES)
    def test_open_makes_what_is_missing(self, lab: Lab) -> None:
        """Open makes what is missing."""
        network = lab.describe()
        before = lab.host.links()
        lab.host.run(lab.driver.create_network, network)
        for link in lab.host.links() - before:
            change(lab.host, delete_link(link))
        lab.driver = lab.start(network)
        one, first, _ = lab.container(network)
        two, second, _ = lab.container(network)
        assert lab.check(network, first, one) == ()
        with listen(two, 80) as server:
            assert reaches(one, address_of(second), 80, server)
        if NetworkCapability.NAT in lab.capabilities:
            with listen(lab.outside, 82) as server:
                assert reaches(one, OUTSIDE, 82, server) == HOST

    # ------------------------------------------------------------------ threads

    @needs(NetworkCapability.ADDRESSES)
    def test_many_at_once(self, lab: Lab) -> None:
        """Endpoints of one network come and go at once."""
        network = lab.network()
        before = lab.host.links()
        work = [(lab.endpoint(network), lab.namespace()) for _ in range(12)]

        def live(item: tuple[Endpoint, Namespace]) -> tuple[str, ...]:
            endpoint, sandbox = item
            call_in_netns(lab.host.fd, lambda: lab.driver.attach(network, endpoint, sandbox.fd))
            damage = call_in_netns(lab.host.fd, lambda: lab.driver.check(network, endpoint, sandbox.fd))
            call_in_netns(lab.host.fd, lambda: lab.driver.detach(network, endpoint))
            return damage

        with ThreadPoolExecutor(6) as pool:
            assert set(pool.map(live, work)) == {()}
        assert lab.host.links() == before

    @needs(NetworkCapability.ADDRESSES, NetworkCapability.MULTIPLE)
    def test_networks_come_and_go_at_once(self, lab: Lab) -> None:
        """Networks come and go at once, beside one that is in use and does not notice."""
        network = lab.network()
        sandbox, endpoint, _ = lab.container(network, ports=lab.ports(PortMapping("tcp", 80, 8080)))
        planned = [lab.describe() for _ in range(6)]
        before = lab.host.links()
        work = [(each, lab.endpoint(each, ports=lab.ports(PortMapping("tcp", 80, 0))), lab.namespace()) for each in planned]

        def live(item: tuple[Network, Endpoint, Namespace]) -> tuple[str, ...]:
            own, guest, place = item
            call_in_netns(lab.host.fd, lambda: lab.driver.create_network(own))
            made = call_in_netns(lab.host.fd, lambda: lab.driver.attach(own, guest, place.fd))
            damage = call_in_netns(lab.host.fd, lambda: lab.driver.check(own, replace(guest, ports=made.ports), place.fd))
            call_in_netns(lab.host.fd, lambda: lab.driver.detach(own, guest))
            call_in_netns(lab.host.fd, lambda: lab.driver.delete_network(own))
            return damage

        with ThreadPoolExecutor(6) as pool:
            assert set(pool.map(live, work)) == {()}
        assert lab.host.links() == before
        assert lab.check(network, endpoint, sandbox) == ()


def _repaired(lab: Lab, network: Network, *endpoints: Endpoint) -> list[str]:
    return [line for endpoint in endpoints for line in lab.host.run(lab.driver.repair, network, endpoint)]
