"""`system fsck`: what is wrong in the daemon's storage, from Sampan's own endpoint `/sampan/system/fsck`."""

from __future__ import annotations

import click

from sampan.cli.client import current
from sampan.cli.flags import Command
from sampan.cli.listing import printable
from sampan.cli.table import show_objects


@click.command("fsck", cls=Command)
@click.option("--repair", is_flag=True, help="Mend what can be mended without losing what an object owns.")
@click.option("--deep", is_flag=True, help="Also read all content and verify its digests.")
@click.option("--format", "template", metavar="FORMAT", help="json, or a Go template.")
def fsck(repair: bool, deep: bool, template: str | None) -> int:
    """Look for orphans and losses while the daemon works. Exit status 0: clean; 1: damage is left."""
    client = current()
    query = {"deep": deep}
    report = client.post("/sampan/system/fsck", query) if repair else client.get("/sampan/system/fsck", query)
    if template:
        show_objects([report], template)
        return bool(report["Damage"])
    for item in report["Mended"]:
        print(f"mended: {_line(item)}: {item['Remedy']}")
    for item in report["Damage"]:
        print(f"damage: {_line(item)}")
        print(f"        {'--repair will ' if item['Repairable'] else 'remedy: '}{printable(item['Remedy'])}")
    for text in report["Skipped"]:
        print(f"not looked at: {text}")
    found, mended = len(report["Damage"]), len(report["Mended"])
    print(f"{found or 'no'} damage{' left' if mended else ''}{f', {mended} mended' if mended else ''}")
    return bool(found)


def _line(item: dict[str, str]) -> str:
    return printable(f"{item['Area']}: {item['Subject']}: {item['Problem']}")
