"""Network and IPAM drivers: found by name, opened on first use, closed at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from sampan import plugins
from sampan.api.errors import SampanError, Unavailable
from sampan.api.ipam import IpamDriver
from sampan.api.network import Network, NetworkContext, NetworkDriver
from sampan.engine.drivers import DriverHandle, driver_config, private_directory
from sampan.engine.proxy import Proxy
from sampan.settings import Settings

log = logging.getLogger(__name__)

NetworkPlank = DriverHandle[NetworkDriver]
IpamPlank = DriverHandle[IpamDriver]

DEFAULT_IPAM = "default"


class NetworkDrivers:
    """The drivers in use. `known` tells the networks of a driver, which it gets when it is opened."""

    def __init__(
        self, settings: Settings, registry: plugins.Registry, engine_id: str, proxy: Proxy,
        known: Callable[[str], Sequence[Network]],
    ) -> None:  # fmt: skip
        self._settings = settings
        self._registry = registry
        self._engine_id = engine_id
        self._proxy = proxy
        self._known = known
        self._open: dict[str, NetworkPlank] = {}
        self._opening = asyncio.Lock()
        self._ipam: dict[str, IpamPlank] = {}
        self.unavailable: dict[str, str] = {}
        """Drivers that networks stand on and that did not open with the engine, with the reason."""

    async def get(self, name: str) -> NetworkPlank:
        """Give the driver `name`, opened. Raises `InvalidArgument` for an unknown name, `Unavailable` if it can't work here."""
        if name in self._open:
            return self._open[name]
        async with self._opening:
            if name not in self._open:
                self._open[name] = await self._start(name)
                self.unavailable.pop(name, None)
            return self._open[name]

    async def _start(self, name: str) -> NetworkPlank:
        cls = self._registry.driver("network", name, NetworkDriver)
        state = private_directory(self._settings.state / "network" / name)
        found = await asyncio.to_thread(plugins.probe, cls, state)
        if not found.supported:
            raise Unavailable(f"network driver {name!r} does not work here: {found.reason}")
        values = dict(self._settings.network.get(name, {}))
        if name == "bridge":
            values.setdefault("bridge_name", self._settings.bridge_name)
        context = NetworkContext(state, self._engine_id, self._proxy.port)
        handle = DriverHandle(cls(context, driver_config(cls, values, "network")), found.capabilities)
        await handle.call(handle.driver.open, list(self._known(name)))
        return handle

    def opened(self) -> list[NetworkPlank]:
        """Give the open network drivers."""
        return list(self._open.values())

    async def obstacles(self) -> list[str]:
        """Name what on this host keeps the packets of the open drivers from their way, each with its remedy."""
        found = []
        for plank in self.opened():
            try:
                found += [f"network driver {plank.name}: {line}" for line in await plank.call(plank.driver.obstacles)]
            except SampanError as error:
                log.warning("look for obstacles of network driver %s: %s", plank.name, error)
        return found

    def ipam(self, name: str) -> IpamPlank:
        """Give the IPAM driver `name` ("" is the default one). Raises `InvalidArgument` for an unknown name."""
        name = name or DEFAULT_IPAM
        if name not in self._ipam:
            cls = self._registry.driver("ipam", name, IpamDriver)
            self._ipam[name] = DriverHandle(cls(driver_config(cls, self._settings.ipam.get(name, {}), "ipam")))
        return self._ipam[name]

    async def close(self) -> None:
        """Close every driver; networks and endpoints stay up, for the containers that go on."""
        for plank in self._open.values():
            try:
                await plank.call(plank.driver.close)
            except SampanError:
                log.exception("close network driver %s", plank.name)
            plank.shutdown()
        self._open.clear()
        for ipam in self._ipam.values():
            ipam.shutdown()
        self._ipam.clear()
