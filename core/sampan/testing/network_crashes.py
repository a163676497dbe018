"""The network suite: damage, sweeps, restarts and threads."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from sampan.api.errors import Conflict
from sampan.api.network import Attachment, Endpoint, NetworkCapability, PortMapping
from sampan.linux.namespaces import call_in_netns
from sampan.linux.netlink import add_bridge, delete_link, set_link
from sampan.testing.namespaces import Namespace, listen, reaches
from sampan.testing.network_ground import HOST, OTHER_ENGINE, OUTSIDE, Lab, address_of, change
from sampan.testing.selection import needs

Damage = Callable[[Lab, Namespace, Endpoint, Attachment], None]


def _down_and_up(lab: Lab, sandbox: Namespace, endpoint: Endpoint, attachment: Attachment) -> None:
    """The kernel takes the routes of a link that goes down, and does not give them back."""
    change(sandbox, set_link(endpoint.interface, up=False), set_link(endpoint.interface, up=True))


def _down(lab: Lab, sandbox: Namespace, endpoint: Endpoint, attachment: Attachment) -> None:
    change(sandbox, set_link(endpoint.interface, up=False))


def _gone(lab: Lab, sandbox: Namespace, endpoint: Endpoint, attachment: Attachment) -> None:
    change(sandbox, delete_link(endpoint.interface))


def _host_side_down(lab: Lab, sandbox: Namespace, endpoint: Endpoint, attachment: Attachment) -> None:
    if attachment.host_interface:
        change(lab.host, set_link(attachment.host_interface, up=False))
    else:
        _down(lab, sandbox, endpoint, attachment)


class CrashCases:
    """What is right stays untouched, what is nobody's is swept, and every damage is named."""

    # ------------------------------------------------------------------ check

    @needs(NetworkCapability.ADDRESSES)
    @pytest.mark.parametrize("damage", [_down, _down_and_up, _gone, _host_side_down])
    def test_check_names_the_damage_and_repairs_nothing(self, lab: Lab, damage: Damage) -> None:
        """Check names the damage and repairs nothing."""
        network = lab.network()
        sandbox, endpoint, attachment = lab.container(network)
        neighbour, other, _ = lab.container(network)
        assert lab.check(network, endpoint, sandbox) == ()
        damage(lab, sandbox, endpoint, attachment)
        found = lab.check(network, endpoint, sandbox)
        assert found
        assert lab.check(network, endpoint, sandbox) == found
        assert lab.check(network, other, neighbour) == ()

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
        removed = lab.host.run(lab.driver.gc, [network], [endpoint])
        assert lab.host.links() == kept
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
