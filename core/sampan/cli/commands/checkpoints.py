"""`checkpoint`: a running container's processes as files."""

from __future__ import annotations

import sys

import click

from sampan.cli.client import current, quote
from sampan.cli.flags import Command
from sampan.cli.table import columns

_DIRECTORY = click.option("--checkpoint-dir", metavar="DIR", help="Where the checkpoints are, if not with the container.")


@click.command("create", cls=Command)
@_DIRECTORY
@click.option("--leave-running", is_flag=True, help="Leave the container running after the checkpoint.")
@click.argument("container")
@click.argument("checkpoint")
def create(container: str, checkpoint: str, checkpoint_dir: str | None, leave_running: bool) -> None:
    """Create a checkpoint from a running container."""
    body = {"CheckpointID": checkpoint, "CheckpointDir": checkpoint_dir or "", "Exit": not leave_running}
    current().post(f"/containers/{quote(container)}/checkpoints", body=body)
    print(checkpoint)


@click.command("ls", cls=Command)
@_DIRECTORY
@click.argument("container")
def ls(container: str, checkpoint_dir: str | None) -> None:
    """List checkpoints for a container."""
    found = current().get(f"/containers/{quote(container)}/checkpoints", {"dir": checkpoint_dir})
    sys.stdout.write(columns([["CHECKPOINT NAME"], *([item["Name"]] for item in found or [])]))


@click.command("rm", cls=Command)
@_DIRECTORY
@click.argument("container")
@click.argument("checkpoint")
def rm(container: str, checkpoint: str, checkpoint_dir: str | None) -> None:
    """Remove a checkpoint."""
    current().delete(f"/containers/{quote(container)}/checkpoints/{quote(checkpoint)}", {"dir": checkpoint_dir})
