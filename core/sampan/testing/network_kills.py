"""The network suite: every operation killed wherever it has changed something, and what a daemon that starts again makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import pytest

from sampan.api.network import Endpoint, Network, NetworkCapability, NetworkDriver, PortMapping
from sampan.linux.namespaces import CLONE_NEWNET, setns
from sampan.linux.netlink import Netlink, delete_link
from sampan.linux.nftables import LibraryMissing, Nftables
from sampan.testing.killing import Place, killed_at, killed_before_line, places_of_change
from sampan.testing.namespaces import Namespace
from sampan.testing.network_ground import Lab, change
from sampan.testing.selection import needs

_PORTS = (PortMapping("tcp", 80, 8080), PortMapping("udp", 5000, 5000, count=10))
_MORE = (PortMapping("tcp", 81, 8181),)


@dataclass(frozen=True, slots=True)
class _Scene:
    """What an operation is tried on: a network, a sandbox, and an endpoint of it with ports if the driver publishes any."""

    network: Network
    endpoint: Endpoint
    sandbox: Namespace


Operation = Callable[[_Scene, NetworkDriver], object]


def _attach(scene: _Scene, driver: NetworkDriver) -> None:
    driver.attach(scene.network, scene.endpoint, scene.sandbox.fd)


def _detach(scene: _Scene, driver: NetworkDriver) -> None:
    driver.detach(scene.network, scene.endpoint)


def _release(scene: _Scene, driver: NetworkDriver) -> None:
    driver.release(scene.network, scene.endpoint)


def _prepare(scene: _Scene, driver: NetworkDriver) -> None:
    driver.prepare(scene.network, scene.endpoint, scene.sandbox.fd)


def _publish(scene: _Scene, driver: NetworkDriver) -> None:
    driver.publish(scene.network, scene.endpoint, _MORE)


def _unpublish(scene: _Scene, driver: NetworkDriver) -> None:
    driver.unpublish(scene.network, scene.endpoint, scene.endpoint.ports)


def _gc(scene: _Scene, driver: NetworkDriver) -> None:
    driver.gc([scene.network], [])


def _open(scene: _Scene, driver: NetworkDriver) -> None:
    driver.open([scene.network])


def _create(scene: _Scene, driver: NetworkDriver) -> None:
    driver.create_network(scene.network)


def _delete(scene: _Scene, driver: NetworkDriver) -> None:
    driver.delete_network(scene.network)


class _Picture:
    """What a kill leaves of a driver's work: links, addresses and routes of the host and the sandbox, the host's nftables.

    Made in a forked child at the first look: its sockets stay in the namespaces that they were opened in.
    """

    def __init__(self, lab: Lab, sandbox: Namespace) -> None:
        self._lab, self._sandbox = lab, sandbox
        self._kernels: list[Netlink] = []
        self._nftables: Nftables | None = None

    def __call__(self) -> object:
        if not self._kernels:
            self._open()
        seen: list[object] = [(kernel.links(), kernel.addresses(), kernel.routes()) for kernel in self._kernels]
        return [*seen, self._nftables.list("ruleset") if self._nftables else None]

    def _open(self) -> None:
        for namespace in (self._sandbox, self._lab.host):  # the child is in the host's, and stays there
            setns(namespace.fd, CLONE_NEWNET)
            self._kernels.append(Netlink())
        with suppress(LibraryMissing):
            self._nftables = Nftables()


def _kills(lab: Lab, operation: Operation, ground: Callable[[], _Scene], *networks: Network) -> Iterator[tuple[_Scene, Place]]:
    """Kill an operation on a fresh ground once before its first line, and once at each place after it has changed something;
    give the ground after each, and the place. A daemon that knows `networks` carries it out.
    """
    start = partial(lab.started_in_a_child, *networks)
    scene = ground()
    assert killed_before_line(1, start, partial(operation, scene))
    yield scene, ("before its first line", 1)
    scene = ground()
    places = places_of_change(_Picture(lab, scene.sandbox), start, partial(operation, scene))
    yield scene, ("not killed", 0)
    killed = []
    for place in places[1:]:
        scene = ground()
        killed.append(killed_at(place, start, partial(operation, scene)))
        yield scene, place
    # an operation may end before a thread that it leaves behind comes to its place again
    assert any(killed) or not killed, f"the operation came to none of {places[1:]} again"


class KillCases:
    """An operation that is cut off, wherever it is, leaves nothing that `gc` does not find and nothing that is in the way."""

    @needs(NetworkCapability.ADDRESSES)
    @pytest.mark.parametrize("way", ["gc", "detach"])
    def test_attach_is_killed(self, lab: Lab, way: str) -> None:
        """The store knows no endpoint, or one that never came up: the first is gc's, the second is detached."""
        self._kill_on_the_way(lab, _attach, attached=False, detach=way == "detach")

    @needs(NetworkCapability.PREPARE)
    def test_prepare_is_killed(self, lab: Lab) -> None:
        """A half prepared sandbox is gc's."""
        self._kill_on_the_way(lab, _prepare, attached=False, detach=False)

    @needs(NetworkCapability.ADDRESSES)
    @pytest.mark.parametrize("way", ["gc", "detach"])
    def test_detach_is_killed(self, lab: Lab, way: str) -> None:
        """A half detached endpoint can be detached once more, and is gc's."""
        self._kill_on_the_way(lab, _detach, attached=True, detach=way == "detach")

    @needs(NetworkCapability.ADDRESSES)
    def test_release_is_killed(self, lab: Lab) -> None:
        """A half released endpoint is gc's."""
        self._kill_on_the_way(lab, _release, attached=True, detach=False)

    @needs(NetworkCapability.ADDRESSES)
    def test_gc_is_killed(self, lab: Lab) -> None:
        """A sweep that was cut off is done again."""
        self._kill_on_the_way(lab, _gc, attached=True, detach=False)

    @needs(NetworkCapability.PUBLISH)
    def test_publish_is_killed(self, lab: Lab) -> None:
        """Published or not, the endpoint is well; asking again settles it."""
        network = lab.network()
        sandbox, endpoint, _ = lab.container(network, ports=_PORTS)
        scene = _Scene(network, endpoint, sandbox)
        for _, place in _kills(lab, _publish, lambda: scene, network):
            lab.restart(network)
            assert lab.check(network, endpoint, sandbox) == (), place
            lab.host.run(_publish, scene, lab.driver)
            assert lab.check(network, replace(endpoint, ports=(*endpoint.ports, *_MORE)), sandbox) == (), place
            lab.host.run(lab.driver.unpublish, network, endpoint, _MORE)

    @needs(NetworkCapability.PUBLISH)
    def test_unpublish_is_killed(self, lab: Lab) -> None:
        """Asked again, every port is free for others."""
        network = lab.network()
        sandbox, endpoint, _ = lab.container(network)
        scene = _Scene(network, replace(endpoint, ports=_PORTS), sandbox)

        def ground() -> _Scene:
            lab.host.run(lab.driver.publish, network, endpoint, _PORTS)
            return scene

        for _, place in _kills(lab, _unpublish, ground, network):
            lab.restart(network)
            lab.host.run(_unpublish, scene, lab.driver)
            other, second, _ = lab.container(network, ports=_PORTS)
            assert lab.check(network, second, other) == (), place
            lab.detach(network, second)

    @needs(NetworkCapability.ADDRESSES)
    def test_open_is_killed(self, lab: Lab) -> None:
        """A start that finds a network's links gone, and is cut off while it makes them, is done again."""
        network, sandbox = lab.describe(), lab.namespace()
        before = lab.host.links()
        scene = _Scene(network, lab.endpoint(network, ports=lab.ports(*_PORTS)), sandbox)

        def ground() -> _Scene:
            lab.restart(network)
            for link in lab.host.links() - before:
                if link in lab.host.links():  # some go together
                    change(lab.host, delete_link(link))
            return scene

        for _, place in _kills(lab, _open, ground):
            lab.restart(network)
            _use(lab, scene, place)
        lab.host.run(lab.driver.delete_network, network)
        assert lab.host.links() == before

    @needs(NetworkCapability.ADDRESSES)
    @pytest.mark.parametrize("known", [True, False], ids=["known", "forgotten"])
    def test_create_network_is_killed(self, lab: Lab, known: bool) -> None:
        """A network that the store knows is whole after `open`; of one that it does not know nothing is left after `gc`."""
        network, sandbox = lab.describe(), lab.namespace()
        before = lab.host.links()
        scene = _Scene(network, lab.endpoint(network), sandbox)
        for _, place in _kills(lab, _create, lambda: scene):
            lab.restart(*([network] if known else []))
            if known:
                _use(lab, scene, place)
                lab.host.run(lab.driver.delete_network, network)
            else:
                lab.host.run(lab.driver.gc, [], [])
            assert lab.host.links() == before, place

    @needs(NetworkCapability.ADDRESSES)
    def test_delete_network_is_killed(self, lab: Lab) -> None:
        """A network that is half deleted can be deleted once more, or made again."""
        network, sandbox = lab.describe(), lab.namespace()
        before = lab.host.links()
        scene = _Scene(network, lab.endpoint(network), sandbox)

        def ground() -> _Scene:
            lab.host.run(lab.driver.create_network, network)
            return scene

        for number, (_, place) in enumerate(_kills(lab, _delete, ground, network)):
            lab.restart()
            if number % 2:
                lab.host.run(lab.driver.create_network, network)
                _use(lab, scene, place)
            lab.host.run(lab.driver.delete_network, network)
            assert lab.host.links() == before, place

    def _kill_on_the_way(self, lab: Lab, operation: Operation, *, attached: bool, detach: bool) -> None:
        """Kill; sweep or detach; then the same endpoint, with its ports, can be attached."""
        network = lab.network()
        endpoint = lab.endpoint(network, ports=lab.ports(*_PORTS))
        before = lab.host.links()

        def ground() -> _Scene:
            scene = _Scene(network, endpoint, lab.namespace())
            if attached:
                lab.attach(network, endpoint, scene.sandbox)
            return scene

        tried = 0
        for scene, place in _kills(lab, operation, ground, network):
            tried += 1
            scene.sandbox.close()  # the shim that had the sandbox was told of no attach, and ended
            lab.restart(network)
            if detach:
                lab.detach(network, endpoint)
            else:
                lab.host.run(lab.driver.gc, [network], [])
            assert lab.host.links() == before, place
            _use(lab, scene, place)
        assert tried > 2 or operation is _gc, "the operation changes something"


def _use(lab: Lab, scene: _Scene, place: Place) -> None:
    """See that the scene's endpoint can be attached to a new sandbox and is well."""
    sandbox = lab.namespace()
    lab.attach(scene.network, scene.endpoint, sandbox)
    assert lab.check(scene.network, scene.endpoint, sandbox) == (), place
    lab.detach(scene.network, scene.endpoint)
    sandbox.close()
