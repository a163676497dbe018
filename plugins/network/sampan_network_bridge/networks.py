"""The networks on this host: each is a bridge and some elements of the table's sets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from threading import Lock

from sampan.api.errors import Conflict, SampanError
from sampan.api.marks import Marks
from sampan.api.network import Network
from sampan_network_bridge import bridges, forwarding, options, sets
from sampan_network_bridge.bridges import Bridge
from sampan_network_bridge.firewall import Firewall

log = logging.getLogger(__name__)


class Networks:
    """What of the networks is made. Safe to share between threads. Methods raise `OSError`, `NftError` and as said."""

    def __init__(self, firewall: Firewall, marks: Marks, *, mtu: int) -> None:
        """Keep the arguments; `mtu` in bytes is for networks that ask for none."""
        self._firewall = firewall
        self._marks = marks
        self._mtu = mtu
        self._lock = Lock()
        self._made: dict[str, sets.Elements] = {}

    def open(self, networks: Sequence[Network]) -> None:
        """Make what is missing of these, and take away the elements of others. One that cannot be is left out, and told."""
        made = {}
        for network in networks:
            try:
                self._make_bridge(network)
                made[network.id] = self._elements(network)
            except (SampanError, OSError) as error:
                log.warning("network %s is not up: %s", network.name, error)
        self._keep(made)

    def create(self, network: Network) -> None:
        """Make the bridge, then the elements; all or nothing. Raises `InvalidArgument`, `Conflict`."""
        options.check(network)
        elements = self._elements(network)
        with self._lock:
            if any(elements["bridges"] & others["bridges"] for key, others in self._made.items() if key != network.id):
                raise Conflict(
                    f"create network {network.name}: networks have same bridge name", remedy=f"choose another {options.NAME}"
                )
            self._make_bridge(network)
            try:
                self._firewall.change({}, elements)
            except BaseException:
                bridges.delete(self.bridge(network))
                raise
            self._made[network.id] = elements

    def delete(self, network: Network) -> None:
        """Remove the elements, then the bridge if it is ours. Idempotent."""
        with self._lock:
            elements = self._made.pop(network.id, None) or self._elements(network)
            self._firewall.change(elements, sets.merged(self._made.values()))
            bridges.delete(self.bridge(network))

    def need(self, network: Network) -> None:
        """Try once more to make a network that could not be when the driver opened. Raises as `create`."""
        if network.id not in self._made:
            self.create(network)

    def keep(self, networks: Sequence[Network]) -> None:
        """Take away the elements of all but these."""
        self._keep({network.id: self._elements(network) for network in networks})

    def renew(self) -> None:
        """Put back what elements of a table that others changed are missing."""
        with self._lock:
            self._firewall.change(self._firewall.elements(), sets.merged(self._made.values()))

    def forwarded(self) -> dict[str, list[int]]:
        """Give the bridges that packets are forwarded from and to → their IP versions."""
        with self._lock:
            return {
                bridge.strip('"'): [version for version in sets.FAMILIES if elements[f"local{version}"]]
                for elements in self._made.values()
                if not elements["shut"]
                for bridge in elements["bridges"]
            }

    def damage(self, network: Network) -> list[str]:
        """Name what is missing in the table."""
        there = self._firewall.elements()
        missing = sorted(name for name, elements in self._elements(network).items() if not elements <= there[name])
        table = self._firewall.table
        return [f"network {network.name} is missing in table {table}: {', '.join(missing)}"] if missing else []

    def mend(self, network: Network) -> list[str]:
        """Make the bridge again if it is missing, and what it lacks; name it then. One that cannot be made stays as it is."""
        if network.id not in self._made:
            return []
        return [f"bridge {self.bridge(network).name}"] if self._make_bridge(network) else []

    def bridge(self, network: Network) -> Bridge:
        """Give the bridge that the network should have."""
        return bridges.bridge_of(network, options.parse(network.options), self._marks, mtu=self._mtu)

    def _elements(self, network: Network) -> sets.Elements:
        prefixes = [subnet.prefix for subnet in network.subnets]
        given = options.parse(network.options)
        return sets.network(self.bridge(network).name, prefixes, given, internal=network.internal)

    def _make_bridge(self, network: Network) -> bool:
        if not network.internal:
            for version in {subnet.version for subnet in network.subnets}:
                forwarding.enable(version)
        return bridges.make(self.bridge(network))

    def _keep(self, made: dict[str, sets.Elements]) -> None:
        with self._lock:
            self._firewall.change(self._firewall.elements(), sets.merged(made.values()))
            self._made = made
