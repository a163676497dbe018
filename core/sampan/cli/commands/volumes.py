"""Volumes."""

from __future__ import annotations

from typing import Any

import click

from sampan.cli import environment
from sampan.cli.client import current, filters_query, quote
from sampan.cli.failure import CANNOT_RUN, CliError
from sampan.cli.flags import Command, confirmed, each
from sampan.cli.listing import labels_text
from sampan.cli.table import show, show_objects
from sampan.cli.units import human_size

_HEADERS = {
    "Driver": "DRIVER", "Name": "VOLUME NAME", "Scope": "SCOPE", "Mountpoint": "MOUNTPOINT", "Labels": "LABELS",
    "Size": "SIZE", "Links": "LINKS", "Availability": "AVAILABILITY", "Group": "GROUP", "Status": "STATUS",
}  # fmt: skip


@click.command("ls", cls=Command)
@click.option("-f", "--filter", "filters", multiple=True, metavar="NAME=VALUE", help="Show only what matches.")
@click.option("--format", "template", metavar="FORMAT", help="table, json, `table TEMPLATE` or a Go template.")
@click.option("-q", "--quiet", is_flag=True, help="Show only names.")
def ls(filters: tuple[str, ...], template: str | None, quiet: bool) -> None:
    """List volumes."""
    found = current().get("/volumes", {"filters": filters_query(filters)}).get("Volumes") or []
    rows = [
        {
            "Availability": "N/A",
            "Driver": item["Driver"],
            "Group": "N/A",
            "Labels": labels_text(item.get("Labels")),
            "Links": "N/A",
            "Mountpoint": item.get("Mountpoint", ""),
            "Name": item["Name"],
            "Scope": item.get("Scope", ""),
            "Size": "N/A",
            "Status": "N/A",
        }
        for item in sorted(found, key=lambda item: str(item["Name"]))
    ]
    show(rows, _HEADERS, ["Driver", "Name"], template=template, quiet="Name" if quiet else "")


@click.command("inspect", cls=Command)
@click.option("-f", "--format", "template", metavar="FORMAT", help="json, or a Go template.")
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...")
def inspect(names: tuple[str, ...], template: str | None) -> int:
    """Display detailed information on one or more volumes."""
    client = current()
    found: list[Any] = []
    status = each(names, lambda name: found.append(client.get(f"/volumes/{quote(name)}")))
    show_objects(found, template)
    return status


@click.command("create", cls=Command)
@click.option("-d", "--driver", default="local", show_default=True, metavar="NAME", help="Volume driver.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="Set a label.")
@click.option("-o", "--opt", multiple=True, metavar="KEY=VALUE", help="Option of the driver.")
@click.argument("name", required=False)
def create(name: str | None, driver: str, label: tuple[str, ...], opt: tuple[str, ...]) -> None:
    """Create a volume, and print its name."""
    try:
        body = {
            "Name": name or "",
            "Driver": driver,
            "DriverOpts": environment.mapping(opt, "driver option"),
            "Labels": environment.labels(label, ()),
        }
    except ValueError as error:
        raise CliError(str(error), status=CANNOT_RUN) from error
    print(current().post("/volumes/create", None, body)["Name"])


@click.command("rm", cls=Command)
@click.option("-f", "--force", is_flag=True, help="One that is not there is no error.")
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...")
def rm(names: tuple[str, ...], force: bool) -> int:
    """Remove one or more volumes."""
    client = current()

    def remove(name: str) -> None:
        client.delete(f"/volumes/{quote(name)}", {"force": force})
        print(name, flush=True)

    return each(names, remove)


@click.command("prune", cls=Command)
@click.option("-a", "--all", "everything", is_flag=True, help="Remove unused named volumes too.")
@click.option("--filter", "filters", multiple=True, metavar="NAME=VALUE", help="Remove only what matches.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
def prune(everything: bool, filters: tuple[str, ...], force: bool) -> None:
    """Remove unused local volumes."""
    kind = "all" if everything else "anonymous"
    if not confirmed(f"This will remove {kind} local volumes not used by at least one container.", force):
        return
    if everything:
        filters = (*filters, "all=true")
    answer = current().post("/volumes/prune", {"filters": filters_query(filters)})
    if deleted := answer.get("VolumesDeleted"):
        print("Deleted Volumes:", *deleted, "", sep="\n")
    print(f"Total reclaimed space: {human_size(answer.get('SpaceReclaimed') or 0)}")
