"""What can be damaged about an endpoint, inside of its sandbox and on the host: each way a function of a scene."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

from sampan.api.network import Attachment, Endpoint, Network, PortMapping
from sampan.linux.netlink import Request, delete_address, delete_link, link_index, replace_route, set_link
from sampan.testing.namespaces import Namespace
from sampan.testing.network_ground import Lab, change

__all__ = ["INSIDE", "ON_THE_HOST", "Damage", "Scene"]


@dataclass(frozen=True, slots=True)
class Scene:
    """An endpoint to be damaged, and the links that its network has on the host."""

    lab: Lab
    network: Network
    network_links: frozenset[str]
    sandbox: Namespace
    endpoint: Endpoint
    attachment: Attachment

    @classmethod
    def made(cls, lab: Lab) -> Scene:
        """Make a network, and in it an endpoint that has something of everything."""
        network = lab.describe()
        before = lab.host.links()
        lab.host.run(lab.driver.create_network, network)
        links = frozenset(lab.host.links() - before)
        sandbox, endpoint, attachment = lab.container(
            network, mac="02:42:00:00:be:ef", link_local=("169.254.7.1/16",), ports=lab.ports(PortMapping("tcp", 80, 8080))
        )
        return cls(lab, network, links, sandbox, endpoint, attachment)

    def inside(self, *requests: Request) -> None:
        """Change something in the sandbox."""
        change(self.sandbox, *requests)

    def index(self) -> int:
        """Give the number of the endpoint's link in the sandbox."""
        return self.sandbox.run(link_index, self.endpoint.interface)


Damage = Callable[[Scene], None]


# ---------------------------------------------------------------- inside


def link_down(scene: Scene) -> None:
    """Take the link down."""
    scene.inside(set_link(scene.endpoint.interface, up=False))


def routes_lost(scene: Scene) -> None:
    """Take the link down and up: the kernel takes a link's routes then, and does not give them back."""
    scene.inside(set_link(scene.endpoint.interface, up=False), set_link(scene.endpoint.interface, up=True))


def link_gone(scene: Scene) -> None:
    """Delete the link."""
    scene.inside(delete_link(scene.endpoint.interface))


def loopback_down(scene: Scene) -> None:
    """Take the loopback down."""
    scene.inside(set_link("lo", up=False))


def address_gone(scene: Scene) -> None:
    """Take the address."""
    scene.inside(delete_address(scene.index(), str(scene.endpoint.ipv4)))


def link_local_gone(scene: Scene) -> None:
    """Take the link-local address."""
    scene.inside(delete_address(scene.index(), scene.endpoint.link_local[0]))


def other_gateway(scene: Scene) -> None:
    """Lead the default route elsewhere on the link."""
    neighbour = ipaddress.ip_interface(str(scene.endpoint.ipv4)).network[-2]
    scene.inside(replace_route("0.0.0.0/0", gateway=str(neighbour), index=scene.index()))


def other_mac(scene: Scene) -> None:
    """Give the link another hardware address than was asked for."""
    scene.inside(set_link(scene.endpoint.interface, mac="02:42:00:00:00:07"))


INSIDE: tuple[Damage, ...] = (
    link_down, routes_lost, link_gone, loopback_down, address_gone, link_local_gone, other_gateway, other_mac,
)  # fmt: skip


# ---------------------------------------------------------------- on the host


def host_side_down(scene: Scene) -> None:
    """Take the host's side of the link down, where there is one."""
    if scene.attachment.host_interface:
        change(scene.lab.host, set_link(scene.attachment.host_interface, up=False))


def host_side_out_of_its_network(scene: Scene) -> None:
    """Take the host's side of the link out of its bridge, where there is one."""
    if scene.attachment.host_interface:
        change(scene.lab.host, set_link(scene.attachment.host_interface, master=0))


def network_gone(scene: Scene) -> None:
    """Delete the network's own links."""
    for link in scene.network_links:
        if link in scene.lab.host.links():  # some go together
            change(scene.lab.host, delete_link(link))


ON_THE_HOST: tuple[Damage, ...] = (host_side_down, host_side_out_of_its_network, network_gone)
