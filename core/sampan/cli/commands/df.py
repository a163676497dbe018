"""What takes the space: `system df` as docker shows it, and `storage df`, Sampan's byte ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import click

from sampan.cli.client import current
from sampan.cli.flags import Command
from sampan.cli.listing import ellipsis, printable, short_id
from sampan.cli.table import show, show_objects
from sampan.cli.units import ago, human_size

_SUMMARY = {"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"}
_IMAGES = {
    "Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID", "CreatedSince": "CREATED", "Size": "SIZE",
    "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE", "Containers": "CONTAINERS",
}  # fmt: skip
_CONTAINERS = {
    "ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "LocalVolumes": "LOCAL VOLUMES", "Size": "SIZE",
    "RunningFor": "CREATED", "Status": "STATUS", "Names": "NAMES",
}  # fmt: skip
_VOLUMES = {"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}
_LEDGER = {"Kind": "KIND", "Driver": "DRIVER", "Count": "OBJECTS", "Inodes": "INODES", "Size": "SIZE"}
_OBJECTS = {"Kind": "KIND", "Driver": "DRIVER", "Name": "NAME", "Owners": "OWNERS", "Inodes": "INODES", "Size": "SIZE"}


@click.command("df", cls=Command)
@click.option("-v", "--verbose", is_flag=True, help="Show each object.")
@click.option("--format", "template", metavar="FORMAT", help="table, json, `table TEMPLATE` or a Go template.")
def system_df(verbose: bool, template: str | None) -> None:
    """Show disk usage, counted as docker counts it."""
    found = current().get("/system/df")
    if not verbose:
        show(_summary(found), _SUMMARY, list(_SUMMARY), template=template)
        return
    parts = {"Images": _image_rows(found), "Containers": _container_rows(found), "Volumes": _volume_rows(found)}
    if template:
        show_objects([{**parts, "BuildCache": []}], template)
        return
    for title, headers, rows in (
        ("Images", _IMAGES, parts["Images"]),
        ("Containers", _CONTAINERS, parts["Containers"]),
        ("Local Volumes", _VOLUMES, parts["Volumes"]),
    ):
        print(f"{title} space usage:\n")
        show(rows, headers, list(headers))
        print()
    print("Build cache usage: 0B")


def _summary(found: Mapping[str, Any]) -> list[dict[str, str]]:
    images, containers, volumes = (found.get(name) or [] for name in ("Images", "Containers", "Volumes"))
    layers = found.get("LayersSize") or 0
    used = sum(_unique(item) for item in images if item.get("Containers", 0) > 0)
    running = [item for item in containers if item.get("State") in ("running", "paused", "restarting")]
    written = sum(_positive(item.get("SizeRw")) for item in containers)
    sizes = [
        (_positive(item["UsageData"]["Size"]), item["UsageData"]["RefCount"])
        for item in volumes
        if item.get("UsageData")
    ]
    in_use = sum(item.get("Containers", 0) > 0 for item in images)
    held = sum(_positive(item.get("SizeRw")) for item in running)
    linked = [size for size, links in sizes if links > 0]
    total = sum(size for size, _ in sizes)
    return [
        _usage("Images", len(images), in_use, layers, layers - used),
        _usage("Containers", len(containers), len(running), written, written - held),
        _usage("Local Volumes", len(volumes), len(linked), total, total - sum(linked)),
        _usage("Build Cache", 0, 0, 0, 0),
    ]


def _usage(kind: str, total: int, active: int, size: int, reclaimable: int) -> dict[str, str]:
    share = f" ({reclaimable * 100 // size}%)" if size > 0 else ""
    return {
        "Active": str(active),
        "Reclaimable": f"{human_size(reclaimable, 4)}{share}",
        "Size": human_size(size, 4),
        "TotalCount": str(total),
        "Type": kind,
    }


def _positive(size: int | None) -> int:
    """Give a size, 0 where it is not known."""
    return max(size or 0, 0)


def _unique(image: Mapping[str, Any]) -> int:
    return int(image["Size"]) - _positive(image.get("SharedSize"))


def _since(stamp: int) -> str:
    return ago(datetime.fromtimestamp(stamp, UTC))


def _image_rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for image in found.get("Images") or []:
        for name in image.get("RepoTags") or ["<none>:<none>"]:
            repository, _, tag = name.rpartition(":")
            rows.append(
                {
                    "Containers": str(image.get("Containers", 0)),
                    "CreatedSince": _since(image["Created"]),
                    "ID": short_id(image["Id"], no_trunc=False),
                    "Repository": repository,
                    "SharedSize": human_size(_positive(image.get("SharedSize")), 4),
                    "Size": human_size(image["Size"]),
                    "Tag": tag,
                    "UniqueSize": human_size(_unique(image), 4),
                }
            )
    return rows


def _container_rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "Command": f'"{ellipsis(item.get("Command") or "", 20)}"',
            "ID": short_id(item["Id"], no_trunc=False),
            "Image": item.get("Image", ""),
            "LocalVolumes": str(sum(mount.get("Driver") == "local" for mount in item.get("Mounts") or [])),
            "Names": ",".join(name.removeprefix("/") for name in item.get("Names") or []),
            "RunningFor": _since(item["Created"]),
            "Size": _size_cell(item.get("SizeRw") or 0),
            "Status": item.get("Status", ""),
        }
        for item in found.get("Containers") or []
    ]


def _volume_rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "Links": str(item["UsageData"]["RefCount"]),
            "Name": item["Name"],
            "Size": _size_cell(item["UsageData"]["Size"], 4),
        }
        for item in found.get("Volumes") or []
    ]


def _size_cell(size: int, precision: int = 3) -> str:
    """Give a size with docker's number of digits for that column."""
    return "N/A" if size < 0 else human_size(size, precision)


@click.command("df", cls=Command)
@click.option("-v", "--verbose", is_flag=True, help="Show each object, not only kinds.")
@click.option("--format", "template", metavar="FORMAT", help="table, json, `table TEMPLATE` or a Go template.")
def storage_df(verbose: bool, template: str | None) -> None:
    """Show whose every byte under the daemon's root is; the total is what `du -s` says."""
    found = current().get("/sampan/storage/df")
    if verbose:
        rows = [_object_row(item) for item in found["Objects"]]
        show(rows, _OBJECTS, list(_OBJECTS), template=template)
        return
    show([*_kind_rows(found["Objects"]), _total_row(found)], _LEDGER, list(_LEDGER), template=template)


def _object_row(item: Mapping[str, Any]) -> dict[str, Any]:
    name = printable(item["Name"].removeprefix("sha256:"))
    return {
        "Bytes": item["Bytes"],
        "Driver": item["Driver"] or "-",
        "Inodes": str(item["Inodes"]),
        "Kind": item["Kind"],
        "Name": name[:12] if len(name) == 64 else name,
        "Owners": ",".join(owner.removeprefix("sha256:")[:12] for owner in item["Owners"]) or "-",
        "Size": human_size(item["Bytes"], 4),
    }


def _kind_rows(objects: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    sums: dict[tuple[str, str], list[int]] = {}
    for item in objects:
        line = sums.setdefault((item["Kind"], item["Driver"]), [0, 0, 0])
        line[0] += 1
        line[1] += item["Inodes"]
        line[2] += item["Bytes"]
    return [_kind_row(kind, driver, *line) for (kind, driver), line in sums.items()]


def _total_row(found: Mapping[str, Any]) -> dict[str, Any]:
    return _kind_row("total", "", len(found["Objects"]), found["Inodes"], found["Bytes"])


def _kind_row(kind: str, driver: str, count: int, inodes: int, size: int) -> dict[str, Any]:
    return {
        "Bytes": size, "Count": str(count), "Driver": driver or "-", "Inodes": str(inodes), "Kind": kind,
        "Size": human_size(size, 4),
    }  # fmt: skip
