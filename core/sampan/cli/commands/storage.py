"""Storage drivers: what they are and hold, whether it is sound, and containers moved between them. Sampan's own endpoints."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click

from sampan.cli.client import current, quote
from sampan.cli.flags import Command, each
from sampan.cli.listing import ellipsis, printable, short_id
from sampan.cli.table import show
from sampan.cli.units import ago, human_size

_DRIVER_HEADERS = {
    "Name": "NAME", "Default": "DEFAULT", "State": "STATE", "Capabilities": "CAPABILITIES", "Snapshots": "SNAPSHOTS",
    "Containers": "CONTAINERS", "Reason": "REASON",
}  # fmt: skip
_SNAPSHOT_HEADERS = {
    "Key": "KEY", "Parent": "PARENT", "Kind": "KIND", "Created": "CREATED", "Owner": "OWNER", "Size": "SIZE", "Inodes": "INODES",
}  # fmt: skip


@click.command("ls", cls=Command)
@click.option("-s", "--size", is_flag=True, help="Measure each snapshot, without its parents.")
@click.option("--format", "template", metavar="FORMAT", help="table, json, `table TEMPLATE` or a Go template.")
@click.option("--no-trunc", is_flag=True, help="Do not shorten the output.")
@click.option("-q", "--quiet", is_flag=True, help="Show only names or keys.")
@click.argument("driver", required=False, metavar="[DRIVER]")
def ls(size: bool, template: str | None, no_trunc: bool, quiet: bool, driver: str | None) -> None:
    """List the storage drivers, or the snapshots of one."""
    if driver is None:
        drivers = [_driver(item, no_trunc) for item in current().get("/sampan/storage")]
        shown = [name for name in _DRIVER_HEADERS if name != "Reason" or any(row["Reason"] for row in drivers)]
        show(drivers, _DRIVER_HEADERS, shown, template=template, quiet="Name" if quiet else "")
        return
    found = current().get(f"/sampan/storage/{quote(driver)}/snapshots", {"size": size})
    columns = ["Key", "Parent", "Kind", "Created", "Owner", *(["Size", "Inodes"] if size else [])]
    rows = [_snapshot(item, no_trunc) for item in found]
    show(rows, _SNAPSHOT_HEADERS, columns, template=template, quiet="Key" if quiet else "")


def _driver(item: Mapping[str, Any], no_trunc: bool) -> dict[str, Any]:
    return {
        "Name": item["Name"],
        "Default": "yes" if item["Default"] else "",
        "State": item["State"],
        "Capabilities": ", ".join(item["Capabilities"]),
        "Snapshots": item["Snapshots"],
        "Containers": item["Containers"],
        "Reason": item["Reason"] if no_trunc else ellipsis(item["Reason"], 80),
    }


def _snapshot(item: Mapping[str, Any], no_trunc: bool) -> dict[str, Any]:
    owners = [f"{owner['Kind']} {owner['Name'] or short_id(owner['Id'], no_trunc)}" for owner in item["Owners"]]
    return {
        "Key": short_id(item["Key"], no_trunc),
        "Parent": short_id(item["Parent"], no_trunc),
        "Kind": item["Kind"],
        "Created": ago(datetime.fromisoformat(item["Created"].partition(".")[0].rstrip("Z") + "+00:00")),
        "Owner": ", ".join(owners),
        "Size": human_size(item["Size"]) if "Size" in item else "N/A",
        "Inodes": item.get("Inodes", "N/A"),
    }


@click.command("check", cls=Command)
@click.argument("drivers", nargs=-1, metavar="[DRIVER...]")
def check(drivers: tuple[str, ...]) -> int:
    """Look for damage in storage drivers, or in all in use; exits with 1 if there is any.

    `sampan system fsck --repair` mends what can be mended.
    """
    client = current()
    if not drivers:
        drivers = tuple(item["Name"] for item in client.get("/sampan/storage") if item["State"] == "open" or item["Containers"])
    damaged = []

    def look(name: str) -> None:
        for item in client.get(f"/sampan/storage/{quote(name)}/check"):
            damaged.append(item)
            kind = "" if item["Repairable"] else " (can't be repaired)"
            print(printable(f"{name}: {item['Subject']}: {item['Problem']}: {item['Remedy']}{kind}"))

    status = each(drivers, look)
    if not damaged and not status:
        print(f"No damage found in {', '.join(drivers)}")
    return 1 if damaged else status


@click.command("migrate", cls=Command)
@click.option("--to", required=True, metavar="DRIVER", help="Storage driver that the container's files go to.")
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
def migrate(to: str, containers: tuple[str, ...]) -> int:
    """Move the files of stopped containers to another storage driver."""
    client = current()

    def move(name: str) -> None:
        done = client.post(f"/sampan/containers/{quote(name)}/migrate", {"to": to})
        if done is None:
            print(f"{name}: is on {to} already", file=sys.stderr)
            return
        if count := done["SocketsLeftOut"]:
            print(f"{name}: {count} sockets, on which nobody listens any more, were left out", file=sys.stderr)
        print(name, flush=True)

    return each(containers, move)
