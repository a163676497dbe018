"""`run` and `create`."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from typing import Any

import click

from sampan.cli import session, terminal
from sampan.cli.client import Client, current
from sampan.cli.container_options import container_options
from sampan.cli.container_request import CreateRequest, build
from sampan.cli.failure import CANNOT_RUN, CliError, DaemonError, Unreachable
from sampan.cli.flags import Command
from sampan.cli.progress import show_progress

_SETTINGS = {"allow_interspersed_args": False}
NOT_EXECUTABLE, NOT_FOUND = 126, 127


@click.command("create", cls=Command, context_settings=_SETTINGS)
@container_options
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def create(image: str, command: tuple[str, ...], **options: Any) -> None:
    """Create a new container, and print its id."""
    print(_create(current(), build(options, image, command, detach=False), options))


@click.command("run", cls=Command, context_settings=_SETTINGS)
@click.option("-d", "--detach", is_flag=True, help="Run in the background and print the container's id.")
@click.option("--detach-keys", metavar="KEYS", default="", help="Keys that detach.  [default: ctrl-p,ctrl-q]")
@click.option("--sig-proxy", is_flag=True, default=True, help="Pass signals on to the process.  [default: true]")
@container_options
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(image: str, command: tuple[str, ...], detach: bool, detach_keys: str, sig_proxy: bool, **options: Any) -> int:
    """Create and run a new container from an image.

    Gives the container's exit status; 125 if Sampan fails, 126 or 127 if the command can't be run or found.
    """
    client = current()
    request = build(options, image, command, detach=detach)
    config = request.body
    if config["Tty"] and config["AttachStdin"] and not os.isatty(0):
        raise CliError("the input device is not a TTY", remedy="Leave out -t, or run it from a terminal")
    if config["Tty"] and (size := terminal.size(1)):
        config["HostConfig"]["ConsoleSize"] = list(size)
    identity = _create(client, request, options)
    try:
        if detach:
            client.post(f"/containers/{identity}/start")
            print(identity)
            return 0
        joined = session.Session(
            client,
            f"/containers/{identity}",
            tty=config["Tty"],
            stdin=config["AttachStdin"],
            detach_keys=detach_keys,
            forward_signals=sig_proxy and not config["Tty"],
        )
        return _foreground(joined, config)
    except (DaemonError, Unreachable) as error:
        error.status = _status_of(error)
        raise


def _create(client: Client, request: CreateRequest, options: Any) -> str:
    """Create the container, pulling the image as --pull says; give its id and write it to --cidfile.

    Any error has status 125.
    """
    try:
        return _create_or_pull(client, request, options)
    except CliError as error:
        error.status = CANNOT_RUN
        raise


def _create_or_pull(client: Client, request: CreateRequest, options: Any) -> str:
    path = options["cidfile"]
    if path and os.path.exists(path):  # noqa: PTH110  pathlib costs 8 ms
        raise CliError(
            f"container ID file found, make sure the other container isn't running or delete {path}",
            status=CANNOT_RUN,
        )
    query = {"name": request.name, "platform": request.platform}
    if options["pull"] == "always":
        _pull(client, request, options["quiet"])
    try:
        answer = client.post("/containers/create", query, request.body)
    except DaemonError as error:
        missing = error.code == 404 and "no such image" in error.daemon_message.lower()
        if not missing or options["pull"] != "missing":
            raise
        print(f"Unable to find image '{with_tag(request.image)}' locally", file=sys.stderr)
        _pull(client, request, options["quiet"])
        answer = client.post("/containers/create", query, request.body)
    for warning in answer.get("Warnings") or []:
        print(f"WARNING: {warning}", file=sys.stderr)
    identity = str(answer["Id"])
    if path:
        from pathlib import Path

        Path(path).write_text(identity)
    return identity


def with_tag(image: str) -> str:
    """Give the name with the tag that is meant where none is written."""
    return image if "@" in image or ":" in image.rpartition("/")[2] else f"{image}:latest"


def _pull(client: Client, request: CreateRequest, quiet: bool) -> None:
    query = {"fromImage": with_tag(request.image), "platform": request.platform}
    with client.stream("POST", "/images/create", query) as response:
        show_progress(response, sys.stderr, quiet=quiet)


def _foreground(joined: session.Session, config: dict[str, Any]) -> int:
    """Attach, start, carry the streams, and give the exit status."""
    client, target = joined.client, joined.target
    automatic = config["HostConfig"]["AutoRemove"]
    query = {
        "stream": True,
        "stdin": config["AttachStdin"],
        "stdout": config["AttachStdout"],
        "stderr": config["AttachStderr"],
        "detachKeys": joined.detach_keys or None,
    }
    streams = any(config[f"Attach{name}"] for name in ("Stdin", "Stdout", "Stderr"))
    attached = client.hijack(f"{target}/attach", query) if streams else None
    try:
        waiting = client.stream("POST", f"{target}/wait", {"condition": "removed" if automatic else "next-exit"})
        with closing(waiting), session.prepared(joined) as signals:
            try:
                client.post(f"{target}/start")
            except DaemonError:
                if automatic:
                    waiting.read()  # until the daemon has removed it
                raise
            session.resize(joined)
            if attached and session.join(joined, attached, signals):
                return 0
            return session.exit_status(joined, waiting, signals)
    finally:
        if attached:
            attached.close()


_NOT_FOUND_TEXTS = ("executable file not found", "no such file or directory", "system cannot find the file")
_NOT_EXECUTABLE_TEXTS = ("permission denied", "is a directory", "exec format error")


def _status_of(error: CliError) -> int:
    """Give docker's exit status for an error of create or start; the daemon tells the cause only in words."""
    text = error.message.lower()
    if "exec" not in text and "start" not in text and "init" not in text:
        return CANNOT_RUN
    if any(part in text for part in _NOT_FOUND_TEXTS):
        return NOT_FOUND
    if any(part in text for part in _NOT_EXECUTABLE_TEXTS):
        return NOT_EXECUTABLE
    return CANNOT_RUN
