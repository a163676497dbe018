"""Containers: the list, and what is done to one without joining its streams."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

from sampan.cli import ports
from sampan.cli.client import current, filters_query, quote
from sampan.cli.failure import CliError, DaemonError
from sampan.cli.flags import Command, confirmed, each
from sampan.cli.listing import ellipsis, labels_text, list_options, short_id
from sampan.cli.table import columns, show, show_objects
from sampan.cli.units import ago, human_size, local_time

_HEADERS = {
    "ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "RunningFor": "CREATED", "Status": "STATUS",
    "Ports": "PORTS", "Names": "NAMES", "Size": "SIZE", "CreatedAt": "CREATED AT", "State": "STATE",
    "Labels": "LABELS", "Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS", "Label": "",
    "Platform": "PLATFORM",
}  # fmt: skip


@click.command("ps", cls=Command)
@click.option("-a", "--all", "everything", is_flag=True, help="Show all containers, not only running ones.")
@click.option("-n", "--last", type=int, default=-1, metavar="N", help="Show the N last created, in any state.")
@click.option("-l", "--latest", is_flag=True, help="Show the last created, in any state.")
@click.option("-s", "--size", is_flag=True, help="Show total file sizes.")
@list_options
def ps(
    everything: bool,
    last: int,
    latest: bool,
    size: bool,
    filters: tuple[str, ...],
    template: str | None,
    quiet: bool,
    no_trunc: bool,
) -> None:
    """List containers."""
    count = 1 if latest else last
    wants_size = size or bool(template and (".Size" in template or "json" in template))
    found = current().get(
        "/containers/json",
        {
            "all": everything or count > 0,
            "limit": count if count > 0 else None,
            "size": wants_size,
            "filters": filters_query(filters),
        },
    )
    shown = ["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names", *(["Size"] if size else [])]
    show(
        [_row(item, no_trunc) for item in found],
        _HEADERS,
        shown,
        template=template,
        quiet="ID" if quiet else "",
    )


def _row(item: Mapping[str, Any], no_trunc: bool) -> dict[str, Any]:
    labels = item.get("Labels") or {}
    names = [name.removeprefix("/") for name in item.get("Names") or []]
    mounts = [str(mount.get("Name") or mount.get("Source") or "") for mount in item.get("Mounts") or []]
    command = str(item.get("Command") or "")
    row = {
        "ID": short_id(item["Id"], no_trunc),
        "Image": _image(item, no_trunc),
        "Command": json.dumps(command if no_trunc else ellipsis(command, 20), ensure_ascii=False),
        "RunningFor": ago(datetime.fromtimestamp(item["Created"], UTC)),
        "CreatedAt": local_time(item["Created"]),
        "Status": item.get("Status", ""),
        "State": item.get("State", ""),
        "Ports": ports.display(item.get("Ports") or []),
        "Names": ",".join(names if no_trunc else [name for name in names if "/" not in name]),
        "Size": _size(item),
        "Labels": labels_text(labels),
        "Mounts": ",".join(mounts if no_trunc else [ellipsis(mount, 15) for mount in mounts]),
        "LocalVolumes": str(sum(mount.get("Driver") == "local" for mount in item.get("Mounts") or [])),
        "Networks": ",".join(sorted((item.get("NetworkSettings") or {}).get("Networks") or {})),
        "Platform": None,
    }
    return _Row(row, labels)


class _Row(dict[str, Any]):
    """A row that also answers `.Label "name"`, which is no part of its JSON."""

    def __init__(self, fields: Mapping[str, Any], labels: Mapping[str, str]) -> None:
        super().__init__(sorted(fields.items()))
        self._labels = labels

    def __contains__(self, name: object) -> bool:
        return name == "Label" or super().__contains__(name)

    def __missing__(self, name: str) -> Any:
        if name == "Label":
            return lambda label: self._labels.get(label, "")
        raise KeyError(name)


def _image(item: Mapping[str, Any], no_trunc: bool) -> str:
    name = str(item.get("Image") or "")
    if not name:
        return "<no image>"
    if no_trunc:
        return name
    if name.removeprefix("sha256:") == str(item.get("ImageID", "")).removeprefix("sha256:"):
        return short_id(name, False)
    return name.partition("@")[0]


def _size(item: Mapping[str, Any]) -> str:
    own, whole = item.get("SizeRw") or 0, item.get("SizeRootFs") or 0
    return f"{human_size(own)} (virtual {human_size(whole)})" if whole else human_size(own)


@click.command("inspect", cls=Command)
@click.option("-f", "--format", "template", metavar="FORMAT", help="json, or a Go template.")
@click.option("-s", "--size", is_flag=True, help="Show total file sizes.")
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
def inspect(containers: tuple[str, ...], template: str | None, size: bool) -> int:
    """Display detailed information on one or more containers."""
    client = current()
    found: list[Any] = []
    status = each(containers, lambda name: found.append(client.get(f"/containers/{quote(name)}/json", {"size": size})))
    show_objects(found, template)
    return status


def _act(containers: tuple[str, ...], action: str, query: Mapping[str, Any] | None = None) -> int:
    client = current()

    def act(name: str) -> None:
        client.post(f"/containers/{quote(name)}/{action}", query)
        print(name, flush=True)

    return each(containers, act)


@click.command("stop", cls=Command)
@click.option("-s", "--signal", help="Signal to send.")
@click.option("-t", "--timeout", "--time", type=int, metavar="SECONDS", help="Seconds to wait before it is killed.")
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
def stop(containers: tuple[str, ...], signal: str | None, timeout: int | None) -> int:
    """Stop one or more running containers."""
    return _act(containers, "stop", {"signal": signal, "t": timeout})


@click.command("restart", cls=Command)
@click.option("-s", "--signal", help="Signal to send.")
@click.option("-t", "--timeout", "--time", type=int, metavar="SECONDS", help="Seconds to wait before it is killed.")
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
def restart(containers: tuple[str, ...], signal: str | None, timeout: int | None) -> int:
    """Restart one or more containers."""
    return _act(containers, "restart", {"signal": signal, "t": timeout})


@click.command("kill", cls=Command)
@click.option("-s", "--signal", metavar="SIGNAL", help="Signal to send.  [default: KILL]")
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
def kill(containers: tuple[str, ...], signal: str | None) -> int:
    """Kill one or more running containers."""
    return _act(containers, "kill", {"signal": signal})


@click.command("pause", cls=Command)
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
def pause(containers: tuple[str, ...]) -> int:
    """Pause all processes within one or more containers."""
    return _act(containers, "pause")


@click.command("unpause", cls=Command)
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
def unpause(containers: tuple[str, ...]) -> int:
    """Unpause all processes within one or more containers."""
    return _act(containers, "unpause")


@click.command("rm", cls=Command)
@click.option("-f", "--force", is_flag=True, help="Kill it if it runs; one that is not there is no error.")
@click.option("-l", "--link", is_flag=True, help="Remove the link, not the container.")
@click.option("-v", "--volumes", is_flag=True, help="Remove its anonymous volumes too.")
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
def rm(containers: tuple[str, ...], force: bool, link: bool, volumes: bool) -> int:
    """Remove one or more containers."""
    client = current()

    def remove(name: str) -> None:
        try:
            client.delete(f"/containers/{quote(name)}", {"force": force, "link": link, "v": volumes})
        except DaemonError as error:
            if not (force and error.code == 404):
                raise
            print(f"sampan: {error}", file=sys.stderr)
            return
        print(name, flush=True)

    return each(containers, remove)


@click.command("wait", cls=Command)
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
def wait(containers: tuple[str, ...]) -> int:
    """Block until one or more containers stop, then print their exit codes."""
    client = current()

    def await_exit(name: str) -> None:
        answer = client.post(f"/containers/{quote(name)}/wait")
        if answer is None:
            raise CliError(f"wait for {name}: the daemon went away", remedy="Look at the daemon's log")
        if error := (answer.get("Error") or {}).get("Message"):
            raise CliError(str(error))
        print(answer["StatusCode"], flush=True)

    return each(containers, await_exit)


@click.command("rename", cls=Command)
@click.argument("container")
@click.argument("new_name")
def rename(container: str, new_name: str) -> None:
    """Rename a container."""
    current().post(f"/containers/{quote(container)}/rename", {"name": new_name})


@click.command("top", cls=Command, context_settings={"allow_interspersed_args": False})
@click.argument("container")
@click.argument("ps_options", nargs=-1, type=click.UNPROCESSED)
def top(container: str, ps_options: tuple[str, ...]) -> None:
    """Display the running processes of a container."""
    answer = current().get(
        f"/containers/{quote(container)}/top", {"ps_args": " ".join(ps_options) if ps_options else None}
    )
    sys.stdout.write(columns([answer["Titles"], *(answer["Processes"] or [])], min_width=20))


@click.command("diff", cls=Command)
@click.argument("container")
def diff(container: str) -> None:
    """Inspect changes to files or directories on a container's filesystem.

    C is a change, A what was added, D what was deleted.
    """
    for change in current().get(f"/containers/{quote(container)}/changes") or []:
        print("CAD"[change["Kind"]], change["Path"])


@click.command("port", cls=Command)
@click.argument("container")
@click.argument("private", required=False, metavar="[PORT[/PROTO]]")
def port(container: str, private: str | None) -> None:
    """List port mappings or a specific mapping for the container."""
    table = current().get(f"/containers/{quote(container)}/json")["NetworkSettings"].get("Ports") or {}
    if private is not None:
        name = private if "/" in private else f"{private}/tcp"
        if not table.get(name):
            raise CliError(f"no public port '{private}' published for {container}")
        lines = [_address(binding) for binding in table[name]]
    else:
        lines = [
            f"{name} -> {_address(binding)}"
            for name, bindings in sorted(table.items(), key=lambda item: int(item[0].partition("/")[0]))
            for binding in bindings or []
        ]
    for line in lines:
        print(line)


def _address(binding: Mapping[str, str]) -> str:
    ip = binding.get("HostIp", "")
    return f"[{ip}]:{binding['HostPort']}" if ":" in ip else f"{ip}:{binding['HostPort']}"


@click.command("prune", cls=Command)
@click.option("--filter", "filters", multiple=True, metavar="NAME=VALUE", help="Remove only what matches.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
def prune(filters: tuple[str, ...], force: bool) -> None:
    """Remove all stopped containers."""
    if not confirmed("This will remove all stopped containers.", force):
        return
    answer = current().post("/containers/prune", {"filters": filters_query(filters)})
    if deleted := answer.get("ContainersDeleted"):
        print("Deleted Containers:", *deleted, "", sep="\n")
    print(f"Total reclaimed space: {human_size(answer.get('SpaceReclaimed') or 0)}")
