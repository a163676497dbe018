"""The networks on this host: each is a bridge and some elements of the table's sets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from sampan.api.errors import Conflict, SampanError
from sampan.api.marks import Marks
from sampan.api.network import Network
from sampan_network_bridge import bridges, forwarding, options, sets
from sampan_network_bridge.bridges import Bridge
from sampan_network_bridge.firewall import Firewall
from sampan_network_bridge.options import Options

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a network is on the host, by its options."""

    given: Options
    bridge: Bridge
    elements: sets.Elements


class Networks:
    """What of the networks is made. Safe to share between threads. Methods raise `OSError`, `NftError` and as said."""

    def __init__(self, firewall: Firewall, marks: Marks, *, mtu: int) -> None:
        """Keep the arguments; `mtu` in bytes is for networks that ask for none."""
        self._firewall = firewall
        self._marks = marks
        self._mtu = mtu
        self._lock = Lock()
        self._made: dict[str, Plan] = {}

    def plan(self, network: Network) -> Plan:
        """Give the network's plan, made or not. Raises `InvalidArgument`."""
        return self._made.get(network.id) or self._plan(network)

    def need(self, network: Network) -> Plan:
        """Give the plan of a made network; one that could not be made when the driver opened is tried anew. As `create`."""
        return self._made.get(network.id) or self.create(network)

    def open(self, networks: Sequence[Network]) -> None:
        """Make what is missing of these, and take away the elements of others. One that cannot be is left out, and told."""
        made = {}
        for network in networks:
            try:
                plan = self._plan(network)
                _make_bridge(plan.bridge)
                made[network.id] = plan
            except (SampanError, OSError) as error:
                log.warning("network %s is not up: %s", network.name, error)
        self._keep(made)

    def create(self, network: Network) -> Plan:
        """Make the bridge, then the elements; all or nothing. Raises `InvalidArgument`, `Conflict`."""
        options.check(network)
        plan = self._plan(network)
        with self._lock:
            if any(plan.bridge.name == other.bridge.name for key, other in self._made.items() if key != network.id):
                raise Conflict(
                    f"create network {network.name}: networks have same bridge name", remedy=f"choose another {options.NAME}"
                )
            was_there = bridges.is_there(plan.bridge)  # with containers in it, if it could not be made whole by `open`
            try:
                _make_bridge(plan.bridge)
                self._firewall.change({}, plan.elements)
            except BaseException:
                if not was_there:
                    bridges.delete(plan.bridge)
                raise
            self._made[network.id] = plan
        return plan

    def delete(self, network: Network) -> None:
        """Remove the elements, then the bridge if it is ours. Idempotent."""
        with self._lock:
            plan = self._made.pop(network.id, None) or self._plan(network)
            self._firewall.change(plan.elements, sets.common(plan.elements, self._elements()))
            bridges.delete(plan.bridge)

    def keep(self, networks: Sequence[Network]) -> None:
        """Take away the elements of all but these, of which some may not be made."""
        self._keep({network.id: self._made[network.id] for network in networks if network.id in self._made})

    def renew(self) -> None:
        """Put back what elements of a table that others changed are missing."""
        with self._lock:
            self._firewall.change(self._firewall.elements(), self._elements())

    def forwarded(self) -> dict[str, list[int]]:
        """Give the bridges that packets are forwarded from and to → their IP versions."""
        with self._lock:
            return {
                plan.bridge.name: [version for version in sets.FAMILIES if plan.elements[f"local{version}"]]
                for plan in self._made.values()
                if not plan.elements["shut"]
            }

    def damage(self, network: Network) -> list[str]:
        """Name what is missing in the table."""
        there = self._firewall.elements()
        wanted = self.plan(network).elements
        missing = sorted(name for name, elements in wanted.items() if not elements <= there[name])
        table = self._firewall.table
        return [f"network {network.name} is missing in table {table}: {', '.join(missing)}"] if missing else []

    def mend(self, network: Network) -> list[str]:
        """Make the bridge again if it is missing, and what it lacks; name it then. One that cannot be made stays as it is."""
        plan = self._made.get(network.id)
        return [f"bridge {plan.bridge.name}"] if plan and _make_bridge(plan.bridge) else []

    def _plan(self, network: Network) -> Plan:
        given = options.parse(network.options)
        bridge = bridges.bridge_of(network, given, self._marks, mtu=self._mtu)
        prefixes = [subnet.prefix for subnet in network.subnets]
        return Plan(given, bridge, sets.network(bridge.name, prefixes, given, internal=network.internal))

    def _elements(self) -> sets.Elements:
        return sets.merged(plan.elements for plan in self._made.values())

    def _keep(self, made: dict[str, Plan]) -> None:
        with self._lock:
            self._made = made
            self._firewall.change(self._firewall.elements(), self._elements())


def _make_bridge(bridge: Bridge) -> bool:
    for version in bridge.forwards:
        forwarding.enable(version)
    return bridges.make(bridge)
