"""Networks: subnets chosen, drivers opened and called, everything recorded before it exists on the host."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Sequence

from sampan import plugins
from sampan.api.errors import InvalidArgument, NotFound, SampanError, Unavailable, Unsupported
from sampan.api.ipam import AddressRequest, IpamDriver, PoolRequest
from sampan.api.network import (
    Network,
    NetworkCapability,
    NetworkContext,
    NetworkDriver,
    SandboxKind,
    Subnet,
)  # fmt: skip
from sampan.api.types import IpamConfig, IpamPool
from sampan.engine.drivers import DriverHandle, driver_config, private_directory
from sampan.engine.events import EventBus
from sampan.engine.metadata import Metadata
from sampan.engine.names import new_id
from sampan.engine.proxy import Proxy
from sampan.engine.records import NetworkRecord
from sampan.settings import Settings

log = logging.getLogger(__name__)

NetworkPlank = DriverHandle[NetworkDriver]


class Networks:
    """The engine's networks: one default per driver that has one, opened with their drivers at start."""

    def __init__(self, settings: Settings, registry: plugins.Registry, metadata: Metadata, events: EventBus, proxy: Proxy
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._metadata = metadata
        self._events = events
        self._proxy = proxy
        self._open: dict[str, NetworkPlank] = {}
        self._opening = asyncio.Lock()
        self._allocating = asyncio.Lock()
        self._networks: dict[str, NetworkRecord] = {}
        self._ipam = DriverHandle(self._make_ipam("default"))
        self.unavailable: dict[str, str] = {}

    def _make_ipam(self, name: str) -> IpamDriver:
        cls = self._registry.driver("ipam", name, IpamDriver)
        return cls(driver_config(cls, self._settings.ipam.get(name, {}), "ipam"))

    # ------------------------------------------------------------------ drivers

    async def open(self) -> None:
        """Open every driver that has networks here, and the three default ones; what can't work is listed, not fatal."""
        self._networks = {r.id: r for r in self._metadata.database.query(self._metadata.networks.list)}
        used = {record.driver for record in self.all()}
        for name in sorted(used | {"bridge", "host", "none"}):
            try:
                await self._ensure_default(await self.get(name))
            except SampanError as error:
                self.unavailable[name] = str(error)
                log.warning("network driver %s is not available: %s", name, error)

    async def get(self, name: str) -> NetworkPlank:
        """Give the driver `name`, opened. Raises `InvalidArgument` for an unknown name, `Unavailable` if it can't work here."""
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
        handle = DriverHandle(
            cls(NetworkContext(state, self._metadata.engine_id, self._proxy.port), driver_config(cls, values, "network")),
            found.capabilities,
        )
        known = [to_network(record) for record in self.all() if record.driver == name]
        await handle.call(handle.driver.open, known)
        return handle

    def opened(self) -> list[NetworkPlank]:
        """Give the open drivers."""
        return list(self._open.values())

    async def _ensure_default(self, plank: NetworkPlank) -> NetworkRecord | None:
        wanted = plank.driver.default_network()
        if wanted is None:
            return None
        for record in self.all():
            if record.driver == plank.name and record.is_default:
                return record
        pools = []
        if plank.name == "bridge" and self._settings.bridge_subnet:
            interface = ipaddress.ip_interface(self._settings.bridge_subnet)
            pools = [IpamPool(subnet=str(interface.network), gateway=str(interface.ip))]
        return await self._create(
            plank,
            wanted.name,
            pools=pools,
            options=dict(wanted.options),
            is_default=True,
            needs_subnet=NetworkCapability.ADDRESSES in plank.capabilities,
        )

    async def default_of(self, driver: str) -> NetworkRecord:
        """Give the default network of a driver, made on first use. Raises as `get`; `Unsupported` if it has none."""
        record = await self._ensure_default(await self.get(driver))
        if record is None:
            raise Unsupported(
                f"join the default network of driver {driver!r}: it has none", remedy="make one and name it"
            )
        return record

    # ------------------------------------------------------------------ networks

    def all(self) -> list[NetworkRecord]:
        """Give all networks, oldest first."""
        return list(self._networks.values())

    def resolve(self, name: str) -> NetworkRecord:
        """Find a network by id, name or the beginning of an id. Raises `NotFound`, or `InvalidArgument` if several fit."""
        if name in self._networks:
            return self._networks[name]
        for record in self._networks.values():
            if record.name == name:
                return record
        fitting = [record for key, record in self._networks.items() if name and key.startswith(name)]
        if len(fitting) > 1:
            raise InvalidArgument(f"network {name} is ambiguous ({len(fitting)} matches found on ID prefix)")
        if not fitting:
            raise NotFound(f"network {name} not found")
        return fitting[0]

    def find(self, network_id: str) -> NetworkRecord | None:
        """Give the network with exactly this id, or None."""
        return self._networks.get(network_id)

    async def choose_address(self, network: NetworkRecord, request: AddressRequest) -> str:
        """Have the network's IPAM driver choose an address. Raises as `IpamDriver.choose_address`."""
        return await self._ipam.call(self._ipam.driver.choose_address, request)

    async def _create(
        self,
        plank: NetworkPlank,
        name: str,
        *,
        pools: Sequence[IpamPool],
        options: dict[str, str],
        is_default: bool,
        needs_subnet: bool,
    ) -> NetworkRecord:
        async with self._allocating:
            subnets: list[Subnet] = []
            if needs_subnet:
                taken = [prefix for record in self.all() for prefix, _ in record.subnets]
                for pool in pools or [IpamPool()]:
                    request = PoolRequest(
                        prefix=pool.subnet or None,
                        gateway=pool.gateway or None,
                        ip_range=pool.ip_range or None,
                        in_use=taken,
                    )
                    subnets.append(await self._ipam.call(self._ipam.driver.choose_subnet, request))
            record = NetworkRecord(
                id=new_id(),
                name=name,
                driver=plank.name,
                created=time.time_ns(),
                subnets=[(subnet.prefix, subnet.gateway) for subnet in subnets],
                options=options,
                ipam=IpamConfig(config=[IpamPool(subnet=s.prefix, gateway=s.gateway or "") for s in subnets]),
                is_default=is_default,
            )
            await self._metadata.database.write(lambda tx: self._metadata.networks.insert(tx, record))
            self._networks[record.id] = record
        try:
            await plank.call(plank.driver.create_network, to_network(record))
        except BaseException:
            await self._metadata.database.write(lambda tx: self._metadata.networks.delete(tx, record.id))
            del self._networks[record.id]
            raise
        self._events.emit("network", "create", record.id, {"name": record.name, "type": record.driver})
        return record

    async def sandbox_kind(self, network: NetworkRecord) -> SandboxKind:
        """Say which namespace a container in this network lives in."""
        return (await self.get(network.driver)).driver.sandbox

    async def close(self) -> None:
        """Close every driver; networks and endpoints stay up, for the containers that go on."""
        for plank in self._open.values():
            try:
                await plank.call(plank.driver.close)
            except SampanError:
                log.exception("close network driver %s", plank.name)
            plank.shutdown()
        self._open.clear()
        self._ipam.shutdown()


def to_network(record: NetworkRecord) -> Network:
    """Give the record as the contract's data."""
    return Network(
        id=record.id,
        name=record.name,
        driver=record.driver,
        subnets=tuple(Subnet(prefix, gateway) for prefix, gateway in record.subnets),
        internal=record.internal,
        options=record.options,
    )
