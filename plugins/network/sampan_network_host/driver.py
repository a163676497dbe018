"""The host's own network: a container without a network namespace of its own. There is nothing to make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sampan.api.driver import Probe
from sampan.api.errors import Forbidden, Unsupported
from sampan.api.network import Attachment, Endpoint, Network, NetworkDriver, PortMapping, SandboxKind


class HostDriver(NetworkDriver):
    """One network, named `host`. Ports asked for are discarded, as Docker does: every port is the host's
    already.
    """

    name = "host"
    sandbox = SandboxKind.HOST

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """Say yes: every host has a network namespace."""
        return Probe(True)

    def open(self, networks: Sequence[Network]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def default_network(self) -> Network:
        """Give the only network of this driver."""
        return Network(id="", name="host", driver=self.name)

    def create_network(self, network: Network) -> None:
        """Accept the default network; refuse another one."""
        if network.name != "host":
            raise Forbidden('only one instance of "host" network is allowed')

    def delete_network(self, network: Network) -> None:
        """Do nothing."""

    def attach(self, network: Network, endpoint: Endpoint, netns: int) -> Attachment:
        """Do nothing; the result names no published port."""
        return Attachment()

    def detach(self, network: Network, endpoint: Endpoint) -> None:
        """Do nothing."""

    def publish(self, network: Network, endpoint: Endpoint, ports: Sequence[PortMapping]) -> tuple[PortMapping, ...]:
        """Refuse: nothing can be published where nothing is hidden."""
        raise Unsupported("publish a port in network host: the container has the host's ports", remedy="just listen")

    def unpublish(self, network: Network, endpoint: Endpoint, ports: Sequence[PortMapping]) -> None:
        """Do nothing."""

    def check(self, network: Network, endpoint: Endpoint, netns: int) -> tuple[str, ...]:
        """Find nothing: nothing of ours can be damaged."""
        return ()

    def explain(self, network: Network, endpoint: Endpoint) -> tuple[str, ...]:
        """Say that there is nothing between."""
        return ("it lives in this host's own network: what reaches the host reaches it, and it is not ours to rule",)

    def gc(self, networks: Sequence[Network], endpoints: Sequence[Endpoint]) -> tuple[str, ...]:
        """Remove nothing."""
        return ()
