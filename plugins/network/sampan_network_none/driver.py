"""No network: a sandbox with a loopback and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sampan.api.driver import Probe
from sampan.api.errors import Forbidden, System, Unsupported
from sampan.api.network import Attachment, Endpoint, Network, NetworkDriver, PortMapping
from sampan.linux.namespaces import call_in_netns
from sampan.linux.netlink import Netlink, set_link


class NoneDriver(NetworkDriver):
    """One network, named `none`. Ports asked for are discarded, as Docker does: nobody could reach them."""

    name = "none"

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """Say yes: every network namespace has a loopback."""
        return Probe(True)

    def open(self, networks: Sequence[Network]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def default_network(self) -> Network:
        """Give the only network of this driver."""
        return Network(id="", name="none", driver=self.name)

    def create_network(self, network: Network) -> None:
        """Accept the default network; refuse another one."""
        if network.name != "none":
            raise Forbidden('only one instance of "null" network is allowed')

    def delete_network(self, network: Network) -> None:
        """Do nothing."""

    def attach(self, network: Network, endpoint: Endpoint, netns: int) -> Attachment:
        """Bring the loopback up."""
        try:
            call_in_netns(netns, _loopback_up)
        except OSError as error:
            raise System(f"attach endpoint {endpoint.id[:12]} to network none: {error.strerror}") from error
        return Attachment()

    def detach(self, network: Network, endpoint: Endpoint) -> None:
        """Do nothing: the loopback goes with its sandbox."""

    def publish(self, network: Network, endpoint: Endpoint, ports: Sequence[PortMapping]) -> tuple[PortMapping, ...]:
        """Refuse: there is no way in."""
        raise Unsupported("publish a port in network none: there is no way in", remedy="join a bridge network")

    def unpublish(self, network: Network, endpoint: Endpoint, ports: Sequence[PortMapping]) -> None:
        """Do nothing."""

    def check(self, network: Network, endpoint: Endpoint, netns: int) -> tuple[str, ...]:
        """Look at the loopback."""
        try:
            up = call_in_netns(netns, _loopback_is_up)
        except OSError as error:
            raise System(f"check endpoint {endpoint.id[:12]}: {error.strerror}") from error
        return () if up else ("link lo is down in the sandbox",)

    def explain(self, network: Network, endpoint: Endpoint) -> tuple[str, ...]:
        """Say that there is no way."""
        return ("it has a loopback and nothing else: no packet comes in or goes out",)

    def gc(self, networks: Sequence[Network], endpoints: Sequence[Endpoint]) -> tuple[str, ...]:
        """Remove nothing."""
        return ()


def _loopback_up() -> None:
    with Netlink() as kernel:
        kernel.run(set_link("lo", up=True))


def _loopback_is_up() -> bool:
    with Netlink() as kernel:
        return any(link.name == "lo" and link.up for link in kernel.links())
