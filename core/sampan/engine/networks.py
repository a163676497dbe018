"""Networks: subnets chosen, drivers called, everything recorded before it exists on the host."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from sampan import plugins
from sampan.api.errors import Conflict, Forbidden, InvalidArgument, NotFound, SampanError, Unavailable, Unsupported
from sampan.api.ipam import AddressRequest, PoolRequest
from sampan.api.network import Network, NetworkCapability, SandboxKind, Subnet
from sampan.api.types import IpamConfig, IpamPool, NetworkCreateRequest
from sampan.engine import network_request
from sampan.engine.events import EventBus
from sampan.engine.metadata import Metadata
from sampan.engine.names import new_id
from sampan.engine.network_drivers import NetworkDrivers, NetworkPlank
from sampan.engine.proxy import Proxy
from sampan.engine.records import NetworkRecord
from sampan.settings import Settings

log = logging.getLogger(__name__)

OWN_DRIVERS = ("bridge", "host", "none")
"""Drivers whose default network is there from the start."""


class Networks:
    """The engine's networks: one default per driver that has one, and those that users make."""

    def __init__(self, settings: Settings, registry: plugins.Registry, metadata: Metadata, events: EventBus, proxy: Proxy
    ) -> None:
        self._settings = settings
        self._metadata = metadata
        self._events = events
        self.drivers = NetworkDrivers(settings, registry, metadata.engine_id, proxy, self._of_driver)
        self._changing = asyncio.Lock()
        self._networks: dict[str, NetworkRecord] = {}
        self._going: set[str] = set()
        self.users: Callable[[NetworkRecord], Sequence[str]] = lambda _: ()
        """Tells which running containers are in a network, for people to read."""
        self.before_removal: Callable[[str], Awaitable[None]] = _keeps_nothing
        """Hears of a network's id, and has let go of what it keeps there, or is making there, when it returns."""

    def _of_driver(self, driver: str) -> list[Network]:
        return [to_network(record) for record in self.all() if record.driver == driver]

    async def open(self) -> None:
        """Open every driver that has networks here, and the three default ones; what can't work is listed, not fatal."""
        self._networks = {r.id: r for r in self._metadata.database.query(self._metadata.networks.list)}
        used = {record.driver for record in self.all()}
        for name in sorted(used.union(OWN_DRIVERS)):
            try:
                await self._ensure_default(await self.drivers.get(name))
            except SampanError as error:
                self.drivers.unavailable[name] = str(error)
                log.warning("network driver %s is not available: %s", name, error)

    async def driver_of(self, network: NetworkRecord) -> NetworkPlank:
        """Give the driver that a network stands on. Raises as `NetworkDrivers.get`."""
        return await self.drivers.get(network.driver)

    async def sandbox_kind(self, network: NetworkRecord) -> SandboxKind:
        """Say which namespace a container in this network lives in."""
        return (await self.driver_of(network)).driver.sandbox

    # ------------------------------------------------------------------ looking

    def all(self) -> list[NetworkRecord]:
        """Give all networks, oldest first."""
        return list(self._networks.values())

    def resolve(self, name: str) -> NetworkRecord:
        """Find a network by id, name or the beginning of an id. Raises `NotFound`, or `InvalidArgument` if several fit."""
        if name in self._networks:
            return self._networks[name]
        if found := self.find_named(name):
            return found
        fitting = [record for key, record in self._networks.items() if name and key.startswith(name)]
        if len(fitting) > 1:
            raise InvalidArgument(f"network {name} is ambiguous ({len(fitting)} matches found on ID prefix)")
        if not fitting:
            raise NotFound(f"network {name} not found")
        return fitting[0]

    async def named(self, name: str) -> NetworkRecord:
        """As `resolve`; of one of the engine's own that could not be made at start, the reason is told."""
        if name in OWN_DRIVERS and self.find_named(name) is None:
            return await self.default_of(name)
        return self.resolve(name)

    def find(self, network_id: str) -> NetworkRecord | None:
        """Give the network with exactly this id, or None."""
        return self._networks.get(network_id)

    def find_named(self, name: str) -> NetworkRecord | None:
        """Give the network with exactly this name, or None."""
        return next((record for record in self._networks.values() if record.name == name), None)

    def host_gateways(self) -> list[str]:
        """Give the addresses that `host-gateway` stands for: those of the setting, else of the default bridge."""
        bridge = self.find_named("bridge")
        own = [gateway for _, gateway in bridge.subnets if gateway] if bridge else []
        return list(self._settings.host_gateway_ip) or own

    def check_stays(self, network: NetworkRecord) -> None:
        """Refuse a network that is gone or going. Raises `NotFound`."""
        if network.id not in self._networks or network.id in self._going:
            raise NotFound(f"network {network.name} not found")

    async def default_of(self, driver: str) -> NetworkRecord:
        """Give the default network of a driver, made on first use. Raises as `drivers.get`; `Unsupported` if it has none."""
        record = await self._ensure_default(await self.drivers.get(driver))
        if record is None:
            raise Unsupported(
                f"join the default network of driver {driver!r}: it has none", remedy="make one and name it"
            )
        return record

    # ------------------------------------------------------------------ making

    async def create(self, asked: NetworkCreateRequest) -> NetworkRecord:
        """Make a network. All or nothing, but that a crash may leave one that nobody was told of.

        Raises `InvalidArgument`, `Conflict` for a name or a subnet that is taken, `Forbidden` for a second network of a
        driver that has one alone, and whatever the drivers raise.
        """
        request = network_request.check(asked)
        plank = await self.drivers.get(request.driver)
        if request.enable_ipv6 and NetworkCapability.IPV6 not in plank.capabilities:
            raise Unsupported(f"create network {request.name}: driver {plank.name} has no IPv6", remedy="leave out --ipv6")
        async with self._changing:
            self._check_new(request, plank)
            record = await self._record(request, plank)
            await self._make(record, plank)
        return record

    def _check_new(self, request: NetworkCreateRequest, plank: NetworkPlank) -> None:
        for record in self.all():
            if record.name == request.name:
                raise Conflict(f"network with name {request.name} already exists")
            if record.driver == plank.name and NetworkCapability.MULTIPLE not in plank.capabilities:
                raise Forbidden(f'only one instance of "{plank.name}" network is allowed')

    async def _record(self, request: NetworkCreateRequest, plank: NetworkPlank, *, is_default: bool = False) -> NetworkRecord:
        """Give the record of a new network, its subnets chosen. The caller holds `_changing`."""
        subnets: list[tuple[str, str | None]] = []
        pools: list[IpamPool] = []
        if NetworkCapability.ADDRESSES in plank.capabilities:
            described = Network("", request.name, plank.name, internal=request.internal, options=request.options)
            for version in (4, 6):
                with_gateway = await plank.call(plank.driver.has_gateway, described, version)
                for pool in network_request.pools_of(request, version):
                    subnet = await self._choose_subnet(request.ipam.driver, pool, version, [prefix for prefix, _ in subnets])
                    gateway = subnet.gateway if with_gateway or pool.gateway else None
                    subnets.append((subnet.prefix, gateway))
                    pools.append(pool.model_copy(update={"subnet": subnet.prefix, "gateway": gateway or ""}))
        return NetworkRecord(
            id=new_id(),
            name=request.name,
            driver=plank.name,
            created=time.time_ns(),
            subnets=subnets,
            internal=request.internal,
            ipv4=bool(request.enable_ipv4),
            ipv6=bool(request.enable_ipv6),
            attachable=request.attachable,
            options=request.options,
            labels=request.labels,
            ipam=IpamConfig(driver=request.ipam.driver, options=request.ipam.options, config=pools),
            is_default=is_default,
        )

    async def _choose_subnet(self, driver: str, pool: IpamPool, version: int, also_taken: Sequence[str]) -> Subnet:
        request = PoolRequest(
            prefix=pool.subnet or None,
            gateway=pool.gateway or None,
            ip_range=pool.ip_range or None,
            version=version,
            in_use=[*(prefix for record in self.all() for prefix, _ in record.subnets), *also_taken],
        )
        ipam = self.drivers.ipam(driver)
        subnet = await ipam.call(ipam.driver.choose_subnet, request)
        _check_auxiliary(pool, subnet)
        return subnet

    async def _make(self, record: NetworkRecord, plank: NetworkPlank) -> None:
        await self._metadata.database.write(lambda tx: self._metadata.networks.insert(tx, record))
        self._networks[record.id] = record
        try:
            await plank.call(plank.driver.create_network, to_network(record))
        except BaseException:
            await self._forget(record)
            raise
        self._emit(record, "create")

    async def _forget(self, record: NetworkRecord) -> None:
        await self._metadata.database.write(lambda tx: self._metadata.networks.delete(tx, record.id))
        self._networks.pop(record.id, None)

    async def _ensure_default(self, plank: NetworkPlank) -> NetworkRecord | None:
        wanted = plank.driver.default_network()
        if wanted is None:
            return None
        async with self._changing:
            for record in self.all():
                if record.driver == plank.name and record.is_default:
                    return record
            request = NetworkCreateRequest(
                name=wanted.name,
                driver=plank.name,
                internal=wanted.internal,
                enable_ipv4=True,
                enable_ipv6=plank.name == "bridge" and self._settings.bridge_subnet6 is not None,
                ipam=IpamConfig(config=self._default_pools(plank.name)),
                options=dict(wanted.options),
            )
            record = await self._record(request, plank, is_default=True)
            await self._make(record, plank)
        return record

    def _default_pools(self, driver: str) -> list[IpamPool]:
        if driver != "bridge":
            return []
        asked = (self._settings.bridge_subnet, self._settings.bridge_range), (self._settings.bridge_subnet6, None)
        return [
            IpamPool(subnet=str(interface.network), gateway=str(interface.ip), ip_range=within or "")
            for text, within in asked
            if text not in (None, "auto")
            for interface in [ipaddress.ip_interface(str(text))]
        ]

    # ------------------------------------------------------------------ removing

    async def remove(self, record: NetworkRecord) -> None:
        """Remove a network that no running container is in. The host forgets it first: a crash leaves it whole, or none.

        Raises `Forbidden` for one of the engine's own or one in use, `NotFound` if another call removes it, `System`.
        """
        if record.is_default:
            raise Forbidden(f"{record.name} is a pre-defined network and cannot be removed")
        self.check_stays(record)
        if users := self.users(record):
            raise Forbidden(f"error while removing network: network {record.name} has active endpoints ({', '.join(users)})")
        self._going.add(record.id)
        try:
            plank = await self.driver_of(record)
            await self.before_removal(record.id)
            await plank.call(plank.driver.delete_network, to_network(record))
            await self._forget(record)
        finally:
            self._going.discard(record.id)
        self._emit(record, "destroy")

    async def close(self) -> None:
        """Close every driver; networks and endpoints stay up, for the containers that go on."""
        await self.drivers.close()

    # ------------------------------------------------------------------ addresses

    async def choose_address(self, network: NetworkRecord, version: int, preferred: str, held: set[str]) -> str | None:
        """Give an address with prefix length for an endpoint; None if the network has no subnet of this version.

        `held` are the addresses of its other endpoints. Of several subnets, the first with room for it is taken. Raises
        `InvalidArgument` for an address outside, and as `IpamDriver.choose_address`.
        """
        subnets = _subnets_of(network, version)
        if preferred:
            subnets = [(subnet, pool) for subnet, pool in subnets if _contains(subnet.prefix, preferred)]
            if not subnets:
                raise InvalidArgument(
                    f"invalid config for network {network.name}: invalid endpoint settings:\n"
                    f"no configured subnet contains IP address {preferred}"
                )
        ipam = self.drivers.ipam(network.ipam.driver)
        full: Unavailable | None = None
        for subnet, pool in subnets:
            request = AddressRequest(
                subnet=subnet,
                ip_range=pool.ip_range or None,
                preferred=preferred or None,
                in_use=held | set(pool.auxiliary_addresses.values()) | ({subnet.gateway} if subnet.gateway else set()),
            )
            try:
                return await ipam.call(ipam.driver.choose_address, request)
            except Unavailable as error:
                full = error
        if full is not None:
            raise full
        return None

    def _emit(self, record: NetworkRecord, action: str) -> None:
        self._events.emit("network", action, record.id, {"name": record.name, "type": record.driver})


async def _keeps_nothing(network_id: str) -> None:
    """Nobody keeps anything in a network."""


def _subnets_of(network: NetworkRecord, version: int) -> list[tuple[Subnet, IpamPool]]:
    pools = [*network.ipam.config, *(IpamPool() for _ in network.subnets[len(network.ipam.config) :])]
    pairs = [(Subnet(prefix, gateway), pool) for (prefix, gateway), pool in zip(network.subnets, pools, strict=True)]
    return [(subnet, pool) for subnet, pool in pairs if subnet.version == version]


def _contains(prefix: str, address: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(prefix)


def _check_auxiliary(pool: IpamPool, subnet: Subnet) -> None:
    """Refuse an auxiliary address that is the gateway's or another name's. Raises `Conflict` in Docker's words."""
    taken = {ipaddress.ip_address(subnet.gateway)} if subnet.gateway else set()
    for name, text in pool.auxiliary_addresses.items():
        address = ipaddress.ip_address(text)
        if address in taken:
            raise Conflict(
                f"failed to allocate secondary ip address ({name}:{text}): Address already in use",
                remedy="name another address or gateway",
            )
        taken.add(address)


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
