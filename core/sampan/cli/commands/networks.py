"""Networks."""

from __future__ import annotations

from typing import Any

import click

from sampan.cli import environment
from sampan.cli.client import current, filters_query, quote
from sampan.cli.failure import CANNOT_RUN, CliError, DaemonError
from sampan.cli.flags import Command, confirmed, each
from sampan.cli.listing import labels_text, list_options, short_id
from sampan.cli.table import show, show_objects

_HEADERS = {
    "ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "IPv4": "IPV4", "IPv6": "IPV6",
    "Internal": "INTERNAL", "Labels": "LABELS", "CreatedAt": "CREATED AT",
}  # fmt: skip


@click.command("ls", cls=Command)
@list_options
def ls(filters: tuple[str, ...], template: str | None, quiet: bool, no_trunc: bool) -> None:
    """List networks."""
    rows = [
        {
            "CreatedAt": item["Created"],
            "Driver": item["Driver"],
            "ID": short_id(item["Id"], no_trunc),
            "IPv4": _bool(item.get("EnableIPv4", True)),
            "IPv6": _bool(item.get("EnableIPv6")),
            "Internal": _bool(item.get("Internal")),
            "Labels": labels_text(item.get("Labels")),
            "Name": item["Name"],
            "Scope": item.get("Scope", ""),
        }
        for item in current().get("/networks", {"filters": filters_query(filters)})
    ]
    rows.sort(key=lambda row: row["Name"])
    show(rows, _HEADERS, ["ID", "Name", "Driver", "Scope"], template=template, quiet="ID" if quiet else "")


def _bool(value: object) -> str:
    return "true" if value else "false"


@click.command("inspect", cls=Command)
@click.option("-f", "--format", "template", metavar="FORMAT", help="json, or a Go template.")
@click.option("-v", "--verbose", is_flag=True, help="Verbose output, for diagnostics.")
@click.argument("names", nargs=-1, required=True, metavar="NETWORK...")
def inspect(names: tuple[str, ...], template: str | None, verbose: bool) -> int:
    """Display detailed information on one or more networks."""
    client = current()
    found: list[Any] = []
    status = each(names, lambda name: found.append(client.get(f"/networks/{quote(name)}", {"verbose": verbose})))
    show_objects(found, template)
    return status


@click.command("create", cls=Command)
@click.option("--attachable", is_flag=True, help="Allow containers to join it by hand.")
@click.option("--aux-address", multiple=True, metavar="NAME=IP", help="Address that is taken on the network.")
@click.option("-d", "--driver", default="bridge", show_default=True, metavar="NAME", help="Network driver.")
@click.option("--gateway", multiple=True, metavar="IP", help="Gateway of a subnet.")
@click.option("--internal", is_flag=True, help="No way out of the network.")
@click.option("--ip-range", multiple=True, metavar="CIDR", help="Give containers addresses of this part of a subnet.")
@click.option("--ipam-driver", default="default", show_default=True, metavar="NAME", help="Address management driver.")
@click.option("--ipam-opt", multiple=True, metavar="KEY=VALUE", help="Option of that driver.")
@click.option("--ipv4", is_flag=True, default=True, help="Assign IPv4 addresses.  [default: true]")
@click.option("--ipv6", is_flag=True, help="Assign IPv6 addresses.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="Set a label.")
@click.option("-o", "--opt", multiple=True, metavar="KEY=VALUE", help="Option of the network driver.")
@click.option("--scope", metavar="SCOPE", help="Scope of the network.")
@click.option("--subnet", multiple=True, metavar="CIDR", help="Subnet; can be given more than once.")
@click.argument("name")
def create(name: str, **options: Any) -> None:
    """Create a network."""
    try:
        body = {
            "Name": name,
            "Driver": options["driver"],
            "Scope": options["scope"] or "",
            "Internal": options["internal"],
            "Attachable": options["attachable"],
            "EnableIPv6": options["ipv6"],
            "IPAM": {
                "Driver": options["ipam_driver"],
                "Options": environment.mapping(options["ipam_opt"], "IPAM option"),
                "Config": _pools(options),
            },
            "Options": environment.mapping(options["opt"], "driver option"),
            "Labels": environment.labels(options["label"], ()),
        }
    except ValueError as error:
        raise CliError(str(error), status=CANNOT_RUN) from error
    if not options["ipv4"]:
        body["EnableIPv4"] = False
    answer = current().post("/networks/create", None, body)
    print(answer["Id"])


def _pools(options: Any) -> list[dict[str, Any]]:
    """Give each subnet with the gateway, range and addresses that lie in it. Raises `ValueError`."""
    import ipaddress

    pools: list[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, dict[str, Any]]] = []
    for text in options["subnet"]:
        subnet = ipaddress.ip_network(text, strict=False)
        if any(subnet.version == other.version and subnet.overlaps(other) for other, _ in pools):
            raise ValueError("multiple overlapping subnet configuration is not supported")
        pools.append((subnet, {"Subnet": text}))

    def pool(what: str, address: str) -> dict[str, Any]:
        inside = ipaddress.ip_interface(address).ip
        for subnet, settings in pools:
            if inside in subnet:
                return settings
        raise ValueError(f"no matching subnet for {what} {address}: give the --subnet that it lies in")

    for address in options["ip_range"]:
        pool("range", address)["IPRange"] = address
    for address in options["gateway"]:
        pool("gateway", address)["Gateway"] = address
    for name, address in environment.mapping(options["aux_address"], "aux address").items():
        pool("aux-address", address).setdefault("AuxiliaryAddresses", {})[name] = address
    return [settings for _, settings in pools]


@click.command("connect", cls=Command)
@click.option("--alias", multiple=True, metavar="NAME", help="Name of the container in the network.")
@click.option("--driver-opt", multiple=True, metavar="KEY=VALUE", help="Option of the network driver.")
@click.option("--gw-priority", type=int, metavar="N", help="The network of the highest gives the default gateway.")
@click.option("--ip", metavar="IPV4", help="IPv4 address.")
@click.option("--ip6", metavar="IPV6", help="IPv6 address.")
@click.option("--link", multiple=True, metavar="CONTAINER[:ALIAS]", help="Link to another container.")
@click.option("--link-local-ip", multiple=True, metavar="IP", help="Link-local address.")
@click.argument("network")
@click.argument("container")
def connect(network: str, container: str, **options: Any) -> None:
    """Connect a container to a network."""
    try:
        driver_options = environment.mapping(options["driver_opt"], "driver option")
    except ValueError as error:
        raise CliError(str(error), status=CANNOT_RUN) from error
    endpoint: dict[str, Any] = {
        "IPAMConfig": {
            "IPv4Address": options["ip"] or "",
            "IPv6Address": options["ip6"] or "",
            "LinkLocalIPs": list(options["link_local_ip"]),
        },
        "Links": list(options["link"]),
        "Aliases": list(options["alias"]),
        "DriverOpts": driver_options,
    }
    if options["gw_priority"] is not None:
        endpoint["GwPriority"] = options["gw_priority"]
    body = {"Container": container, "EndpointConfig": endpoint}
    current().post(f"/networks/{quote(network)}/connect", None, body)


@click.command("disconnect", cls=Command)
@click.option("-f", "--force", is_flag=True, help="Disconnect it whatever its state.")
@click.argument("network")
@click.argument("container")
def disconnect(network: str, container: str, force: bool) -> None:
    """Disconnect a container from a network."""
    current().post(f"/networks/{quote(network)}/disconnect", None, {"Container": container, "Force": force})


@click.command("explain", cls=Command)
@click.argument("container")
def explain(container: str) -> None:
    """Say which packets reach a container and which it may send, and by which rule."""
    found = current().get(f"/sampan/containers/{quote(container)}/network")
    if found["SandboxOf"] != found["Name"]:
        print(f"{found['Name']} shares the network of {found['SandboxOf']}:")
    for endpoint in found["Endpoints"]:
        interface = f" as {endpoint['Interface']}" if endpoint["Interface"] else ""
        print(f"{found['SandboxOf']} is in network {endpoint['Network']}{interface} (driver {endpoint['Driver']}):")
        print(*(f"  * {sentence}" for sentence in endpoint["Sentences"]), sep="\n")
    if found["Obstacles"]:
        print("On this host packets are kept from their way:")
        print(*(f"  ! {obstacle}" for obstacle in found["Obstacles"]), sep="\n")


@click.command("rm", cls=Command)
@click.option("-f", "--force", is_flag=True, help="One that is not there is no error.")
@click.argument("names", nargs=-1, required=True, metavar="NETWORK...")
def rm(names: tuple[str, ...], force: bool) -> int:
    """Remove one or more networks."""
    client = current()

    def remove(name: str) -> None:
        try:
            client.delete(f"/networks/{quote(name)}")
        except DaemonError as error:
            if not (force and error.code == 404):
                raise
            return
        print(name, flush=True)

    return each(names, remove)


@click.command("prune", cls=Command)
@click.option("--filter", "filters", multiple=True, metavar="NAME=VALUE", help="Remove only what matches.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
def prune(filters: tuple[str, ...], force: bool) -> None:
    """Remove all unused networks."""
    if not confirmed("This will remove all custom networks not used by at least one container.", force):
        return
    answer = current().post("/networks/prune", {"filters": filters_query(filters)})
    if deleted := answer.get("NetworksDeleted"):
        print("Deleted Networks:", *deleted, "", sep="\n")
