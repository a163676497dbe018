"""`plugins ls`: the drivers of the daemon, from Sampan's own endpoint GET /sampan/plugins."""

from __future__ import annotations

import click

from sampan.cli.client import current
from sampan.cli.flags import Command
from sampan.cli.listing import ellipsis
from sampan.cli.table import show

_HEADERS = {
    "Kind": "KIND", "Name": "NAME", "Distribution": "DISTRIBUTION", "Version": "VERSION", "State": "STATE",
    "Default": "DEFAULT", "Capabilities": "CAPABILITIES", "Reason": "REASON",
}  # fmt: skip


@click.command("ls", cls=Command)
@click.option("--format", "template", metavar="FORMAT", help="table, json, `table TEMPLATE` or a Go template.")
@click.option("-q", "--quiet", is_flag=True, help="Show only names.")
@click.option("--no-trunc", is_flag=True, help="Do not shorten the output.")
def ls(template: str | None, quiet: bool, no_trunc: bool) -> None:
    """List drivers, and plugins that are broken with the reason."""
    rows = [
        {
            "Capabilities": ",".join(item.get("Capabilities") or []),
            "Default": "*" if item.get("Default") else "",
            "Distribution": item.get("Distribution", ""),
            "Kind": item.get("Kind", ""),
            "Name": item.get("Name", ""),
            "Reason": item.get("Reason", "") if no_trunc else ellipsis(item.get("Reason", ""), 80),
            "State": item.get("State", ""),
            "Version": item.get("Version", ""),
        }
        for item in current().get("/sampan/plugins")
    ]
    show(rows, _HEADERS, list(_HEADERS), template=template, quiet="Name" if quiet else "")
