"""Sandboxes: the network namespaces that containers start in, some of them made before they are asked for.

For each network that containers joined of late a few sandboxes wait, with the first endpoint's link in them where the network's
driver can make it without knowing addresses. They are made a moment after a start, not during it, and nobody sees them: they
have no addresses, no names and no records. Only descriptors of this process hold them, so whatever ends it, the kernel takes
them apart, links and all; a crash leaks nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

from sampan.api.errors import NotFound, SampanError, host_errors
from sampan.api.network import Endpoint, NetworkCapability
from sampan.engine.names import new_id
from sampan.engine.networks import Networks, to_network
from sampan.engine.records import NetworkRecord
from sampan.linux import namespaces
from sampan.linux.namespaces import IdMaps

log = logging.getLogger(__name__)

INTERFACE = "eth0"
"""What the link in a waiting sandbox is called."""

NETWORKS = 4
"""Networks that have sandboxes waiting: those that were joined last."""

PAUSE = 0.05
"""Seconds from a sandbox's taking to the making of the next: the start that took it has the processors to itself."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Sandbox:
    """A network namespace behind a descriptor that is the holder's to close.

    `userns`: descriptor of the user namespace that owns it, if that was made for the container too, else -1.
    `endpoint_id`: the id of an endpoint whose link the network's driver has made in it already, or "".
    """

    netns: int
    userns: int = -1
    endpoint_id: str = ""

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self.netns)
        if self.userns >= 0:
            os.close(self.userns)


@dataclass(frozen=True, slots=True)
class _Pool:
    """What waits for one network's containers; for a network whose driver can prepare nothing, an empty sandbox."""

    network: NetworkRecord
    waiting: deque[Sandbox] = field(default_factory=deque)


class Sandboxes:
    """Gives sandboxes. `size`: how many wait for each network, 0 for none. With `maps` they have user namespaces of their own."""

    def __init__(self, networks: Networks, size: int, maps: IdMaps | None = None) -> None:
        self._networks = networks
        self._size = size
        self._maps = maps
        self._pools: dict[str, _Pool] = {}  # by network id, the one joined last at the end
        self._filler: asyncio.Task[None] | None = None
        self._making = asyncio.Lock()
        self._prepared: WeakKeyDictionary[Sandbox, str] = WeakKeyDictionary()  # a start holds its sandbox to its end

    async def take(self, network: NetworkRecord | None) -> Sandbox:
        """Give a sandbox for a container that joins this network by `eth0`, or an empty one (None)."""
        if network is None:
            return await _made(self._empty)
        self.expect(network)
        waiting = self._pools[network.id].waiting
        return waiting.popleft() if waiting else await _made(self._empty)

    async def take_owned(self, userns: int) -> Sandbox:
        """Give an empty sandbox that belongs to a user namespace; -1: to the host's. The descriptor stays the caller's."""
        return await _made(lambda: Sandbox(namespaces.new_netns(userns)))

    def _empty(self) -> Sandbox:
        if self._maps is None:
            return Sandbox(namespaces.new_netns())
        userns = namespaces.new_userns(self._maps.uids, self._maps.gids)
        try:
            return Sandbox(namespaces.new_netns(userns), userns)
        except BaseException:
            os.close(userns)
            raise

    def expect(self, network: NetworkRecord) -> None:
        """Have sandboxes wait for containers of this network, soon; the network joined longest ago may lose its own."""
        self._pools[network.id] = self._pools.pop(network.id, _Pool(network))
        if len(self._pools) > NETWORKS:
            self._drop(next(iter(self._pools)))
        if self._size and (self._filler is None or self._filler.done()):
            self._filler = asyncio.create_task(self._fill())

    async def forget(self, network_id: str) -> None:
        """Let go of what waits, or is being made, for a network that is going away. The kernel removes the links a moment later."""
        self._drop(network_id)
        async with self._making:
            pass  # what was being made for it is closed now

    def _drop(self, network_id: str) -> None:
        pool = self._pools.pop(network_id, None)
        while pool is not None and pool.waiting:
            pool.waiting.popleft().close()

    def prepared(self) -> list[tuple[str, str]]:
        """Give network and endpoint ids of links that are, or are being, made beforehand, until a start has used them.

        The sweep of a working engine leaves them alone.
        """
        return [(network_id, sandbox.endpoint_id) for sandbox, network_id in self._prepared.items()]

    async def close(self) -> None:
        """Let go of all that waits."""
        self._size = 0
        if self._filler is not None:
            await self._filler
        for network_id in list(self._pools):
            self._drop(network_id)

    async def _fill(self) -> None:
        await asyncio.sleep(PAUSE)
        while pool := next((p for p in self._pools.values() if len(p.waiting) < self._size), None):
            async with self._making:
                await self._add(pool)

    async def _add(self, pool: _Pool) -> None:
        """Have one more wait. One that nobody may take any more is closed again, and none is made for a network that is going."""
        network = pool.network
        try:
            self._networks.check_stays(network)
        except NotFound:
            self._drop(network.id)
            return
        try:
            sandbox = await self._make(network)
        except SampanError as error:
            log.warning("make a sandbox for network %s before it is needed: %s", network.name, error)
            self._drop(network.id)
            return
        if self._pools.get(network.id) is pool:
            pool.waiting.append(sandbox)
        else:
            sandbox.close()

    async def _make(self, network: NetworkRecord) -> Sandbox:
        plank = await self._networks.driver_of(network)
        if NetworkCapability.PREPARE not in plank.capabilities:
            return await _made(self._empty)
        endpoint = Endpoint(new_id(), network.id, container_id="", interface=INTERFACE)
        sandbox = replace(await _made(self._empty), endpoint_id=endpoint.id)
        self._prepared[sandbox] = network.id
        try:
            await plank.call(plank.driver.prepare, to_network(network), endpoint, sandbox.netns)
        except BaseException:
            sandbox.close()
            raise
        return sandbox


async def _made(make: Callable[[], Sandbox]) -> Sandbox:
    """Make one on a thread; one that nobody waits for any more is closed again. Raises `System`."""
    making = asyncio.create_task(asyncio.to_thread(_make_or_tell, make))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(_close_unwanted)
        raise


def _make_or_tell(make: Callable[[], Sandbox]) -> Sandbox:
    with host_errors("make the namespaces of a container"):
        return make()


def _close_unwanted(making: asyncio.Task[Sandbox]) -> None:
    if making.exception() is None:
        making.result().close()
