"""The network suite: what holds for every driver, and the life of networks and endpoints."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from sampan.api.errors import Conflict, SampanError, Unsupported
from sampan.api.network import Network, NetworkCapability, NetworkDriver, PortMapping, SandboxKind
from sampan.testing.namespaces import PATIENCE, listen, reaches, unreachable
from sampan.testing.network_ground import HOST, Lab, address_of, mac_of_link
from sampan.testing.selection import needs, needs_refusal

_LOOK_AGAIN = 0.02  # seconds


class RuleCases:
    """All or nothing, idempotent, and nothing is left."""

    driver_class: ClassVar[type[NetworkDriver]]
    has_default_network: ClassVar[bool]

    # ------------------------------------------------------------------ any driver

    def test_a_probe_leaves_nothing(self, tmp_path: Path) -> None:
        """A probe leaves nothing."""
        before = set(os.listdir("/proc/self/fd"))
        assert self.driver_class.probe(tmp_path).supported
        assert set(os.listdir("/proc/self/fd")) == before
        assert not list(tmp_path.iterdir())

    def test_open_and_close_are_idempotent(self, lab: Lab) -> None:
        """Open and close are idempotent."""
        for _ in range(2):
            lab.host.run(lab.driver.open, ())
        for _ in range(2):
            lab.host.run(lab.driver.close)

    def test_the_default_network_can_be_used(self, lab: Lab) -> None:
        """The default network, if the driver has one, can be used."""
        network = lab.driver.default_network()
        assert (network is not None) is self.has_default_network
        if network is None:
            return
        network = replace(network, id="fe" * 32)
        if NetworkCapability.ADDRESSES in lab.capabilities:
            network = replace(network, subnets=lab.subnets(99)[:1])
        lab.host.run(lab.driver.create_network, network)
        _live_in(lab, network)

    @needs_refusal(NetworkCapability.PUBLISH)
    def test_ports_that_cannot_be_published_are_refused(self, lab: Lab) -> None:
        """A driver without PUBLISH refuses to, and has nothing to take back."""
        network = lab.network() if NetworkCapability.ADDRESSES in lab.capabilities else lab.driver.default_network()
        assert network is not None
        sandbox, endpoint, _ = lab.container(network)
        ports = (PortMapping("tcp", 80, 8080),)
        with pytest.raises(Unsupported):
            lab.host.run(lab.driver.publish, network, endpoint, ports)
        lab.host.run(lab.driver.unpublish, network, endpoint, ports)
        assert lab.check(network, endpoint, sandbox) == ()
        lab.detach(network, endpoint)

    # ------------------------------------------------------------------ links and addresses

    @needs(NetworkCapability.ADDRESSES)
    def test_nothing_is_left(self, lab: Lab) -> None:
        """Nothing is left."""
        network = lab.describe()
        before = lab.host.links()
        lab.host.run(lab.driver.create_network, network)
        sandbox, endpoint, _ = lab.container(network)
        assert sandbox.links() == {"lo", endpoint.interface}
        for _ in range(2):
            lab.detach(network, endpoint)
        for _ in range(2):
            lab.host.run(lab.driver.delete_network, network)
        assert lab.host.links() == before

    @needs(NetworkCapability.ADDRESSES)
    def test_detach_after_the_sandbox_is_gone(self, lab: Lab) -> None:
        """Detach after the sandbox is gone."""
        network = lab.describe()
        before = lab.host.links()
        lab.host.run(lab.driver.create_network, network)
        sandbox, endpoint, _ = lab.container(network)
        sandbox.close()
        for _ in range(2):
            lab.detach(network, endpoint)
        lab.host.run(lab.driver.delete_network, network)
        assert lab.host.links() == before

    @needs(NetworkCapability.ADDRESSES)
    def test_an_attach_that_fails_at_once_leaves_nothing(self, lab: Lab) -> None:
        """An attach that fails at once leaves nothing."""
        network = lab.network()
        sandbox, endpoint, _ = lab.container(network)
        before = lab.host.links()
        with pytest.raises(Conflict):
            lab.attach(network, lab.endpoint(network), sandbox)  # eth0 is there
        assert lab.host.links() == before
        assert lab.check(network, endpoint, sandbox) == (), "the endpoint that was there is as before"

    @needs(NetworkCapability.ADDRESSES)
    def test_an_endpoint_attached_again_is_a_conflict_and_harms_nobody(self, lab: Lab) -> None:
        """The same endpoint once more, in its own sandbox or another, is refused; it goes on, and its ports are its own."""
        network = lab.network()
        sandbox, endpoint, _ = lab.container(network, ports=lab.ports(PortMapping("tcp", 80, 8080)))
        neighbour, _, _ = lab.container(network)
        other, before = lab.namespace(), lab.host.links()
        for place in (sandbox, other):
            with pytest.raises(SampanError):
                lab.attach(network, endpoint, place)
            assert lab.check(network, endpoint, sandbox) == ()
        assert (lab.host.links(), other.links()) == (before, {"lo"})
        with listen(sandbox, 80) as server:
            assert reaches(neighbour, address_of(endpoint), 80, server)
        if endpoint.ports:
            with pytest.raises(Conflict, match="already allocated"):
                lab.container(network, ports=endpoint.ports)

    @needs(NetworkCapability.ADDRESSES)
    def test_an_attach_that_fails_midway_leaves_nothing(self, lab: Lab) -> None:
        """An attach that fails midway leaves nothing."""
        network = lab.network()
        before = lab.host.links()
        ports = lab.ports(PortMapping("tcp", 80, 8080))
        sandbox = lab.namespace()
        with pytest.raises(SampanError):  # from this address the gateway is not reachable: the link is made by then
            lab.attach(network, lab.endpoint(network, ipv4="172.30.0.2/24", ports=ports), sandbox)
        assert lab.host.links() == before
        assert sandbox.links() == {"lo"}
        lab.attach(network, lab.endpoint(network, ports=ports), sandbox)

    @needs(NetworkCapability.ADDRESSES)
    def test_a_hardware_address_is_given_as_asked(self, lab: Lab) -> None:
        """A hardware address is given as asked."""
        sandbox, endpoint, attachment = lab.container(lab.network(), mac="02:42:00:00:be:ef")
        assert attachment.mac == mac_of_link(sandbox, endpoint.interface) == "02:42:00:00:be:ef"

    # ------------------------------------------------------------------ the end of a container

    @needs(NetworkCapability.ADDRESSES)
    def test_what_is_released_is_free_at_once(self, lab: Lab) -> None:
        """Addresses and ports of a released endpoint are the next one's; from then on the old one says and hears nothing, though
        its sandbox lives on; and its link goes.
        """
        network = lab.network(versions=lab.versions)
        neighbour, beside, _ = lab.container(network)
        before = lab.host.links()
        ports = lab.ports(PortMapping("tcp", 80, 8080), PortMapping("udp", 53, 5300))
        old, first, _ = lab.container(network, ports=ports)
        with listen(old, 80) as server:
            assert reaches(neighbour, address_of(first), 80, server)
            for _ in range(2):
                lab.host.run(lab.driver.release, network, first)
        new = lab.namespace()
        second = lab.endpoint(network, ipv4=first.ipv4, ipv6=first.ipv6, ports=ports)
        lab.attach(network, second, new)
        with listen(neighbour, 80, protocol="udp") as server:
            assert unreachable(old, address_of(beside), 80, server)
        old.close()
        assert lab.check(network, second, new) == ()
        with listen(new, 80) as server:
            assert reaches(neighbour, address_of(second), 80, server)
            if ports:
                assert reaches(lab.outside, HOST, 8080, server)
        lab.detach(network, second)
        _wait_until(lambda: lab.host.links() == before)

    @needs(NetworkCapability.ADDRESSES)
    def test_what_is_released_before_a_crash_is_swept(self, lab: Lab) -> None:
        """A daemon that comes back finds links that were to go a little later."""
        network = lab.network()
        before = lab.host.links()
        _, endpoint, _ = lab.container(network)
        lab.host.run(lab.driver.release, network, endpoint)
        lab.restart(network)
        lab.host.run(lab.driver.gc, [network], [])
        assert lab.host.links() == before

    @needs(NetworkCapability.ADDRESSES)
    def test_what_never_was_is_released_and_detached(self, lab: Lab) -> None:
        """An endpoint or network that never was is no error to take away; nor is one that a daemon before this one made."""
        network, nowhere = lab.describe(), lab.describe()
        before = lab.host.links()
        lab.host.run(lab.driver.create_network, network)
        sandbox, endpoint, _ = lab.container(network)
        made = lab.host.links() - before
        for operation in (lab.driver.release, lab.driver.detach):
            lab.host.run(operation, network, lab.endpoint(network))
            lab.host.run(operation, nowhere, lab.endpoint(nowhere))
        lab.host.run(lab.driver.delete_network, nowhere)
        assert lab.check(network, endpoint, sandbox) == ()
        assert lab.host.links() == before | made
        lab.restart()  # it knows no network
        lab.detach(network, endpoint)
        lab.host.run(lab.driver.delete_network, network)
        assert lab.host.links() == before


def _live_in(lab: Lab, network: Network) -> None:
    sandbox, endpoint, _ = lab.container(network)
    assert lab.check(network, endpoint, sandbox) == ()
    if lab.driver.sandbox is SandboxKind.OWN:
        with listen(sandbox, 80) as server:
            assert reaches(sandbox, "127.0.0.1", 80, server) == "127.0.0.1"
    for _ in range(2):
        lab.detach(network, endpoint)
    for _ in range(2):
        lab.host.run(lab.driver.delete_network, network)


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(_LOOK_AGAIN)
