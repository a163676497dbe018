"""Containers as images and as tars: `commit` and `export`."""

from __future__ import annotations

import click

from sampan.cli.client import current, quote
from sampan.cli.flags import Command
from sampan.cli.saving import refuse_terminal, save_body


@click.command("commit", cls=Command)
@click.option("-a", "--author", metavar="TEXT", help='Author (such as "John Hannibal Smith <hannibal@a-team.com>").')
@click.option("-c", "--change", multiple=True, metavar="INSTRUCTION", help="Apply a Dockerfile instruction.")
@click.option("-m", "--message", metavar="TEXT", help="Commit message.")
@click.option("-p", "--pause", is_flag=True, default=True, help="Pause the container meanwhile.  [default: true]")
@click.argument("container")
@click.argument("reference", required=False, metavar="[REPOSITORY[:TAG]]")
def commit(
    container: str, reference: str | None, author: str | None, change: tuple[str, ...], message: str | None, pause: bool
) -> None:
    """Create a new image from a container's changes."""
    query = {
        "container": container,
        "repo": reference,
        "author": author,
        "comment": message,
        "changes": list(change),
        "pause": "1" if pause else "0",
    }
    print(current().post("/commit", query)["Id"])


@click.command("export", cls=Command)
@click.option("-o", "--output", "path", metavar="FILE", help="Write to a file instead of STDOUT.")
@click.argument("container")
def export(container: str, path: str | None) -> None:
    """Export a container's filesystem as a tar archive."""
    refuse_terminal(path)
    with current().stream("GET", f"/containers/{quote(container)}/export") as response:
        save_body(response, path)
