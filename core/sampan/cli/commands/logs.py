"""`logs`."""

from __future__ import annotations

from typing import Any

import click

from sampan.cli.client import current, quote
from sampan.cli.failure import CANNOT_RUN, CliError
from sampan.cli.flags import Command
from sampan.cli.session import write_all
from sampan.cli.stdcopy import STDERR, Demultiplexer
from sampan.cli.units import since_stamp


@click.command("logs", cls=Command)
@click.option("--details", is_flag=True, help="Show extra details.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option("--since", metavar="TIME", help="Show what is later than a time, or a duration ago (42m).")
@click.option("-n", "--tail", default="all", metavar="N", help="Number of lines from the end.  [default: all]")
@click.option("-t", "--timestamps", is_flag=True, help="Show times.")
@click.option("--until", metavar="TIME", help="Show what is earlier than a time, or a duration ago (42m).")
@click.argument("container")
def logs(
    container: str,
    details: bool,
    follow: bool,
    since: str | None,
    tail: str,
    timestamps: bool,
    until: str | None,
) -> None:
    """Fetch the logs of a container."""
    client = current()
    try:
        ends = {name: since_stamp(text) if text else None for name, text in (("since", since), ("until", until))}
    except ValueError as error:
        raise CliError(str(error), status=CANNOT_RUN) from error
    found = client.get(f"/containers/{quote(container)}/json")
    query: dict[str, Any] = {
        "stdout": True, "stderr": True, "details": details, "follow": follow, "tail": tail, "timestamps": timestamps,
    }  # fmt: skip
    with client.stream("GET", f"/containers/{found['Id']}/logs", {**query, **ends}) as response:
        if found["Config"]["Tty"]:
            for chunk in response.chunks():
                write_all(1, chunk)
            return
        frames = Demultiplexer()
        for chunk in response.chunks():
            for stream, payload in frames.feed(chunk):
                write_all(2 if stream == STDERR else 1, payload)
