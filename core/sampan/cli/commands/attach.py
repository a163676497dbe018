"""`attach`, `start` and `exec`: joining a process that exists, or a new one in a container that exists."""

from __future__ import annotations

import os
import time
from contextlib import closing
from typing import Any

import click

from sampan.cli import environment, session, terminal
from sampan.cli.client import Client, current, quote
from sampan.cli.failure import CANNOT_RUN, CliError
from sampan.cli.flags import Command, each


@click.command("attach", cls=Command)
@click.option("--detach-keys", metavar="KEYS", default="", help="Keys that detach.  [default: ctrl-p,ctrl-q]")
@click.option("--no-stdin", is_flag=True, help="Do not attach STDIN.")
@click.option("--sig-proxy", is_flag=True, default=True, help="Pass signals on to the process.  [default: true]")
@click.argument("container")
def attach(container: str, detach_keys: str, no_stdin: bool, sig_proxy: bool) -> int:
    """Attach the standard streams to a running container."""
    client = current()
    found = client.get(f"/containers/{quote(container)}/json")
    if not found["State"]["Running"]:
        raise CliError("cannot attach to a stopped container, start it first", remedy=f"Run: sampan start {container}")
    if found["State"]["Paused"]:
        raise CliError(
            "cannot attach to a paused container, unpause it first", remedy=f"Run: sampan unpause {container}"
        )
    stdin = not no_stdin and found["Config"]["OpenStdin"]
    joined = _join(client, found, stdin, detach_keys, sig_proxy)
    with closing(client.hijack(f"{joined.target}/attach", _streams(stdin, detach_keys))) as attached:
        waiting = client.stream("POST", f"{joined.target}/wait")
        with closing(waiting), session.prepared(joined) as signals:
            session.resize(joined)
            if session.join(joined, attached, signals):
                return 0
            return session.exit_status(joined, waiting, signals)


def _join(client: Client, found: dict[str, Any], stdin: bool, detach_keys: str, sig_proxy: bool) -> session.Session:
    tty = bool(found["Config"]["Tty"])
    if tty and stdin and not os.isatty(0):
        raise CliError("the input device is not a TTY", remedy="Run it from a terminal, or without STDIN")
    return session.Session(
        client, f"/containers/{found['Id']}", tty, stdin, detach_keys, forward_signals=sig_proxy and not tty
    )


def _streams(stdin: bool, detach_keys: str) -> dict[str, Any]:
    return {"stream": True, "stdin": stdin, "stdout": True, "stderr": True, "detachKeys": detach_keys or None}


@click.command("start", cls=Command)
@click.option("-a", "--attach", "attached", is_flag=True, help="Attach STDOUT and STDERR, and pass signals on.")
@click.option("-i", "--interactive", is_flag=True, help="Attach STDIN.")
@click.option("--detach-keys", metavar="KEYS", default="", help="Keys that detach.  [default: ctrl-p,ctrl-q]")
@click.option("--sig-proxy", is_flag=True, default=True, help="Pass signals on to the process.  [default: true]")
@click.option("--checkpoint", metavar="NAME", help="Go on from this checkpoint.")
@click.option("--checkpoint-dir", metavar="DIR", help="Where the checkpoint is, if not with the container.")
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
def start(
    containers: tuple[str, ...], attached: bool, interactive: bool, detach_keys: str, sig_proxy: bool,
    checkpoint: str | None, checkpoint_dir: str | None,
) -> int:  # fmt: skip
    """Start one or more stopped containers."""
    client = current()
    source = {"checkpoint": checkpoint, "checkpoint-dir": checkpoint_dir}
    if checkpoint and len(containers) > 1:
        raise CliError("you cannot restore multiple containers at once")
    if not (attached or interactive):

        def begin(name: str) -> None:
            client.post(f"/containers/{quote(name)}/start", source)
            print(name)

        return each(containers, begin)
    if len(containers) > 1:
        raise CliError("you cannot start and attach multiple containers at once")
    found = client.get(f"/containers/{quote(containers[0])}/json")
    stdin = interactive and bool(found["Config"]["OpenStdin"])
    joined = _join(client, found, stdin, detach_keys, sig_proxy)
    condition = "removed" if found["HostConfig"]["AutoRemove"] else "next-exit"
    with closing(client.hijack(f"{joined.target}/attach", _streams(stdin, detach_keys))) as stream:
        waiting = client.stream("POST", f"{joined.target}/wait", {"condition": condition})
        with closing(waiting), session.prepared(joined) as signals:
            client.post(f"{joined.target}/start", source)
            session.resize(joined)
            if session.join(joined, stream, signals):
                return 0
            return session.exit_status(joined, waiting, signals)


@click.command("exec", cls=Command, context_settings={"allow_interspersed_args": False})
@click.option("-d", "--detach", is_flag=True, help="Run it in the background.")
@click.option("--detach-keys", metavar="KEYS", default="", help="Keys that detach.  [default: ctrl-p,ctrl-q]")
@click.option("-e", "--env", multiple=True, metavar="KEY[=VALUE]", help="Set an environment variable.")
@click.option("--env-file", multiple=True, metavar="FILE", help="Read environment variables from a file.")
@click.option("-i", "--interactive", is_flag=True, help="Keep STDIN open.")
@click.option("--privileged", is_flag=True, help="Give extended privileges to the command.")
@click.option("-t", "--tty", is_flag=True, help="Allocate a pseudo-TTY.")
@click.option("-u", "--user", metavar="USER[:GROUP]", default="", help="User name or id.")
@click.option("-w", "--workdir", metavar="DIR", default="", help="Working directory.")
@click.argument("container")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(container: str, command: tuple[str, ...], **options: Any) -> int:
    """Execute a command in a running container. Gives its exit status."""
    client = current()
    tty, interactive, detach = (
        options["tty"],
        options["interactive"] and not options["detach"],
        options["detach"],
    )
    if tty and interactive and not os.isatty(0):
        raise CliError("the input device is not a TTY", remedy="Leave out -t, or run it from a terminal")
    try:
        variables = environment.environment(options["env"], options["env_file"], os.environ)
    except (ValueError, OSError) as error:
        raise CliError(str(error), status=CANNOT_RUN) from error
    config: dict[str, Any] = {
        "Cmd": list(command),
        "Env": variables,
        "Tty": tty,
        "AttachStdin": interactive,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "Privileged": options["privileged"],
        "User": options["user"],
        "WorkingDir": options["workdir"],
        "DetachKeys": options["detach_keys"],
    }
    begin: dict[str, Any] = {"Detach": detach, "Tty": tty}
    if tty and (size := terminal.size(1)):
        config["ConsoleSize"] = begin["ConsoleSize"] = list(size)
    identity = client.post(f"/containers/{quote(container)}/exec", None, config)["Id"]
    if detach:
        client.post(f"/exec/{identity}/start", None, begin)
        return 0
    joined = session.Session(client, f"/exec/{identity}", tty, interactive, options["detach_keys"], False)
    with (
        closing(client.hijack(f"{joined.target}/start", None, begin)) as stream,
        session.prepared(joined) as signals,
    ):
        session.resize(joined)
        if session.join(joined, stream, signals):
            return 0
    return exec_status(client, identity)


def exec_status(client: Client, identity: str) -> int:
    """Give the exit status of an exec, whose streams may end before it does; the API has no call that waits for that."""
    pause = 0.002
    while (found := client.get(f"/exec/{identity}/json"))["Running"] or found["ExitCode"] is None:
        time.sleep(pause)
        pause = min(2 * pause, 0.25)
    return int(found["ExitCode"])
