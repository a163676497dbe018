"""`inspect`: objects of any kind, by name or id."""

from __future__ import annotations

from typing import Any

import click

from sampan.cli.client import Client, current, quote
from sampan.cli.failure import CliError, DaemonError
from sampan.cli.flags import Command, each
from sampan.cli.table import show_objects

_PATHS = {
    "container": "/containers/{}/json",
    "image": "/images/{}/json",
    "network": "/networks/{}",
    "volume": "/volumes/{}",
}


@click.command("inspect", cls=Command)
@click.option("-f", "--format", "template", metavar="FORMAT", help="json, or a Go template.")
@click.option("-s", "--size", is_flag=True, help="Show total file sizes of containers.")
@click.option("--type", "kind", type=click.Choice(list(_PATHS)), help="Look only for objects of one kind.")
@click.argument("names", nargs=-1, required=True, metavar="NAME|ID...")
def inspect(names: tuple[str, ...], template: str | None, size: bool, kind: str | None) -> int:
    """Return low-level information on containers, images, networks and volumes."""
    client = current()
    found: list[Any] = []
    status = each(names, lambda name: found.append(_find(client, name, kind, size)))
    show_objects(found, template)
    return status


def _find(client: Client, name: str, kind: str | None, size: bool) -> Any:
    for one in [kind] if kind else _PATHS:
        try:
            return client.get(_PATHS[one].format(quote(name)), {"size": size} if one == "container" else None)
        except DaemonError as error:
            if error.code != 404:
                raise
    raise CliError(f"No such {kind or 'object'}: {name}")
