"""The network suite: endpoints of live sandboxes come, go and lead out; links made before their addresses are known."""

from __future__ import annotations

import errno
import socket
from dataclasses import replace
from threading import Event, Thread

import pytest

from sampan.api.errors import SampanError
from sampan.api.network import Endpoint, Network, NetworkCapability
from sampan.linux.netlink import Netlink, link_index
from sampan.testing.namespaces import Namespace, listen, reaches, unreachable
from sampan.testing.network_ground import HOST, HOST6, OUTSIDE, Lab, address6_of, address_of, has_address
from sampan.testing.selection import needs

_DEFAULTS = {4: "0.0.0.0/0", 6: "::/0"}


class EndpointCases:
    """A sandbox is joined to networks and taken out of them while its container runs."""

    # ------------------------------------------------------------------ several networks

    @needs(NetworkCapability.ADDRESSES, NetworkCapability.MULTIPLE)
    def test_a_sandbox_in_two_networks(self, lab: Lab) -> None:
        """A sandbox in two networks."""
        left, right = lab.network(), lab.network()
        middle, first, _ = lab.container(left)
        second = _join(lab, right, middle)
        for network, endpoint in ((left, first), (right, second)):
            assert lab.check(network, endpoint, middle) == ()
            other, _, _ = lab.container(network)
            with listen(middle, 80) as server:
                assert reaches(other, address_of(endpoint), 80, server)

    @needs(NetworkCapability.ADDRESSES, NetworkCapability.MULTIPLE)
    def test_a_live_sandbox_leaves_one_network_and_stays_in_the_other(self, lab: Lab) -> None:
        """What was the endpoint's is gone, from both sides at once; the other goes on, and it may join again."""
        left, right = lab.network(), lab.network()
        middle, first, _ = lab.container(left)
        neighbour, _, _ = lab.container(left)
        other, _, _ = lab.container(right)
        second = _join(lab, right, middle)
        with listen(middle, 80) as server:
            assert reaches(neighbour, address_of(first), 80, server)
            for _ in range(2):
                lab.detach(left, first)
            assert middle.links() == {"lo", "eth1"}
            assert unreachable(neighbour, address_of(first), 80, server)
            assert reaches(other, address_of(second), 80, server)
            assert lab.check(right, second, middle) == ()
            assert lab.check(left, first, middle)
            lab.attach(left, first, middle)
            assert lab.check(left, first, middle) == ()
            assert reaches(neighbour, address_of(first), 80, server)

    @needs(NetworkCapability.ADDRESSES, NetworkCapability.MULTIPLE)
    def test_an_attach_that_fails_leaves_the_sandboxs_other_endpoints_alone(self, lab: Lab) -> None:
        """An attach that fails leaves the sandbox's other endpoints, and its default routes, alone."""
        left, right = lab.network(), lab.network()
        middle, first, _ = lab.container(left)
        lab.container(right)
        before, routes = middle.links(), _default_routes(middle)
        with pytest.raises(SampanError):  # its gateway is not reachable from there
            lab.attach(right, lab.endpoint(right, interface="eth1", ipv4="172.30.0.2/24"), middle)
        assert middle.links() == before
        assert _default_routes(middle) == routes
        assert lab.check(left, first, middle) == ()

    # ------------------------------------------------------------------ the way out

    @needs(NetworkCapability.ADDRESSES, NetworkCapability.MULTIPLE)
    def test_the_gateway_is_of_the_endpoint_that_leads(self, lab: Lab) -> None:
        """Default routes go by the endpoint that is said to lead, and move when another does, for the versions said."""
        left, right = lab.network(versions=lab.versions), lab.network(versions=lab.versions)
        middle, first, _ = lab.container(left)
        second = _join(lab, right, middle)
        by_left, by_right = _ways_out(left, "eth0"), _ways_out(right, "eth1")
        assert _default_routes(middle) == by_left
        for version in lab.versions:
            leading = replace(second, gateway_for=(version,))
            _lead(lab, right, leading, middle)
            assert _default_routes(middle) == {**by_left, version: by_right[version]}
            assert lab.check(right, leading, middle) == ()
            others = tuple(other for other in lab.versions if other != version)
            assert lab.check(left, replace(first, gateway_for=others), middle) == ()
            assert lab.check(left, first, middle), "an endpoint that should lead and does not is damaged"
            for _ in range(2):
                _lead(lab, left, first, middle)
            assert _default_routes(middle) == by_left

    @needs(NetworkCapability.NAT, NetworkCapability.MULTIPLE)
    def test_packets_leave_by_the_endpoint_that_leads(self, lab: Lab) -> None:
        """Packets leave by the endpoint that leads; when it goes, another can take over."""
        left, right = lab.network(versions=lab.versions), lab.network(versions=lab.versions)
        middle, first, _ = lab.container(left)
        second = _join(lab, right, middle)
        with listen(lab.host, 81) as server, listen(lab.outside, 82) as outside:
            assert reaches(middle, HOST, 81, server) == address_of(first)
            _lead(lab, right, replace(second, gateway_for=lab.versions), middle)
            assert reaches(middle, HOST, 81, server) == address_of(second)
            assert reaches(middle, OUTSIDE, 82, outside) == HOST
            lab.detach(right, second)
            assert unreachable(middle, OUTSIDE, 82, outside)
            _lead(lab, left, first, middle)
            assert reaches(middle, OUTSIDE, 82, outside) == HOST
        if 6 in lab.versions:
            with listen(lab.host, 83, family=6) as server:
                assert reaches(middle, HOST6, 83, server) == address6_of(first)

    @needs(NetworkCapability.ADDRESSES, NetworkCapability.MULTIPLE)
    def test_there_is_no_moment_without_a_way_out(self, lab: Lab) -> None:
        """The kernel is asked for the way out all the time while the gateway moves to and fro: it always knows one."""
        left, right = lab.network(), lab.network()
        middle, first, _ = lab.container(left)
        second = replace(_join(lab, right, middle), gateway_for=(4,))
        done, lost = Event(), 0

        def ask() -> None:
            nonlocal lost
            while not done.is_set():
                lost += not middle.run(_has_way_out)

        asking = Thread(target=ask)
        asking.start()
        for _ in range(25):
            _lead(lab, right, second, middle)
            _lead(lab, left, first, middle)
        done.set()
        asking.join()
        assert lost == 0

    # ------------------------------------------------------------------ addresses

    @needs(NetworkCapability.ADDRESSES)
    def test_more_addresses_than_the_subnets(self, lab: Lab) -> None:
        """Link-local addresses are the endpoint's like the others: they answer, and their loss is a damage."""
        network = lab.network()
        one, first, _ = lab.container(network, link_local=("169.254.7.1/16",))
        two, _, _ = lab.container(network, link_local=("169.254.7.2/16", "169.254.8.2/16"))
        for address in ("169.254.7.2", "169.254.8.2"):
            with listen(two, 80) as server:
                assert reaches(one, address, 80, server) == "169.254.7.1"
        assert lab.check(network, first, one) == ()
        assert lab.check(network, replace(first, link_local=("169.254.9.9/16",)), one)

    @needs(NetworkCapability.ADDRESSES, NetworkCapability.IPV6)
    def test_ipv6_alone(self, lab: Lab) -> None:
        """A network of IPv6 alone."""
        network = lab.network(versions=(6,))
        one, first, _ = lab.container(network)
        two, second, _ = lab.container(network)
        assert lab.check(network, first, one) == ()
        with listen(two, 80, family=6) as server:
            assert reaches(one, address6_of(second), 80, server) == address6_of(first)

    @needs(NetworkCapability.ADDRESSES)
    def test_an_interface_of_any_name(self, lab: Lab) -> None:
        """The endpoint says the name of its interface."""
        network = lab.network()
        sandbox, endpoint, _ = lab.container(network, interface="front0")
        assert sandbox.links() == {"lo", "front0"}
        assert has_address(sandbox, "front0", address_of(endpoint))
        assert lab.check(network, endpoint, sandbox) == ()

    # ------------------------------------------------------------------ prepared sandboxes

    @needs(NetworkCapability.PREPARE)
    def test_a_prepared_sandbox_is_finished_by_attach(self, lab: Lab) -> None:
        """Attach finds the link that prepare made, and makes of it what it would have made itself."""
        network = lab.network()
        sandbox, endpoint = lab.namespace(), lab.endpoint(network)
        for _ in range(2):
            lab.host.run(lab.driver.prepare, network, _without_addresses(endpoint), sandbox.fd)
        prepared = lab.host.links()
        assert sandbox.links() == {"lo", endpoint.interface}
        neighbour, _, plain = lab.container(network)
        attachment = lab.attach(network, endpoint, sandbox)
        assert lab.host.links() == prepared | {plain.host_interface}
        assert (attachment.host_interface in prepared, attachment.mtu) == (True, plain.mtu)
        assert lab.check(network, endpoint, sandbox) == ()
        with listen(sandbox, 80) as server:
            assert reaches(neighbour, address_of(endpoint), 80, server)

    @needs(NetworkCapability.PREPARE)
    def test_a_prepared_sandbox_that_nobody_takes_goes(self, lab: Lab) -> None:
        """Detach takes away what prepare made, and so does gc; and the end of the sandbox."""
        network = lab.network()
        before = lab.host.links()
        for way in ("detach", "gc", "end"):
            sandbox, endpoint = lab.namespace(), _without_addresses(lab.endpoint(network))
            lab.host.run(lab.driver.prepare, network, endpoint, sandbox.fd)
            assert lab.host.run(lab.driver.gc, [network], [endpoint]) == (), "one that the pool still has is valid"
            if way == "detach":
                lab.detach(network, endpoint)
            elif way == "gc":
                assert lab.host.run(lab.driver.gc, [network], [])
            else:
                sandbox.close()
                lab.detach(network, endpoint)
            assert lab.host.links() == before

    @needs(NetworkCapability.PREPARE)
    def test_a_prepared_sandbox_hears_and_says_nothing(self, lab: Lab) -> None:
        """Until it is attached it has no address, and nobody reaches it."""
        network = lab.network()
        sandbox, endpoint = lab.namespace(), lab.endpoint(network)
        lab.host.run(lab.driver.prepare, network, _without_addresses(endpoint), sandbox.fd)
        with sandbox.run(Netlink) as kernel:
            assert [item for item in kernel.addresses() if item.index == sandbox.run(link_index, endpoint.interface)] == []


def _join(lab: Lab, network: Network, sandbox: Namespace) -> Endpoint:
    """Join a sandbox to one more network, which does not lead out."""
    endpoint = lab.endpoint(network, interface="eth1", gateway_for=())
    lab.attach(network, endpoint, sandbox)
    return endpoint


def _lead(lab: Lab, network: Network, endpoint: Endpoint, sandbox: Namespace) -> None:
    lab.host.run(lab.driver.set_gateway, network, endpoint, sandbox.fd)


def _without_addresses(endpoint: Endpoint) -> Endpoint:
    return replace(endpoint, ipv4=None, ipv6=None)


def _default_routes(sandbox: Namespace) -> dict[int, tuple[str, str]]:
    """Give the gateway and the interface of each version's default route; more than one is a fault."""
    with sandbox.run(Netlink) as kernel:
        names = {link.index: link.name for link in kernel.links()}
        routes = [route for route in kernel.routes() if route.destination in _DEFAULTS.values()]
    found = {6 if ":" in route.destination else 4: (route.gateway, names[route.index]) for route in routes}
    assert len(found) == len(routes), f"several default routes: {routes}"
    return found


def _ways_out(network: Network, interface: str) -> dict[int, tuple[str, str]]:
    return {subnet.version: (str(subnet.gateway), interface) for subnet in network.subnets}


def _has_way_out() -> bool:
    """Say whether the kernel knows where to send to the outside. `connect` of a UDP socket asks and sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((OUTSIDE, 9))
        except OSError as error:
            if error.errno == errno.ENETUNREACH:
                return False
            raise
    return True
