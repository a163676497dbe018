"""The engine as a whole: version, info, events, disk usage, prune."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import click

import sampan
from sampan.cli.client import current, filters_query
from sampan.cli.failure import CANNOT_RUN, CliError
from sampan.cli.flags import Command, confirmed
from sampan.cli.gotemplate import Template
from sampan.cli.units import binary_size, human_size, since_stamp

API_VERSION = "1.51"


def _render(value: Any, template: str) -> str:
    text = "{{json .}}" if template == "json" else template.replace(r"\t", "\t").replace(r"\n", "\n")
    return Template(text).render(value)


@click.command("version", cls=Command)
@click.option("-f", "--format", "template", metavar="FORMAT", help="json, or a Go template.")
def version(template: str | None) -> int:
    """Show the version of the client and of the daemon."""
    client = {
        "Version": sampan.__version__,
        "ApiVersion": API_VERSION,
        "PythonVersion": sys.version.split()[0],
        "Os": "linux",
    }
    failure: CliError | None = None
    server: dict[str, Any] | None = None
    try:
        server = current().get("/version")
    except CliError as error:
        failure = error
    if template:
        print(_render({"Client": client, "Server": server}, template))
    else:
        print(f"Client:\n Version:           {client['Version']}\n API version:       {API_VERSION}")
        print(f" Python version:    {client['PythonVersion']}\n OS/Arch:           linux", flush=True)
        if server:
            print("\n".join(_server_lines(server)))
    if failure:
        raise failure
    return 0


def _server_lines(server: Mapping[str, Any]) -> list[str]:
    platform = (server.get("Platform") or {}).get("Name", "")
    lines = ["", f"Server: {platform}".rstrip()]
    components = server.get("Components") or [
        {"Name": "Engine", "Version": server.get("Version", ""), "Details": dict(server)}
    ]
    titles = {
        "ApiVersion": "API version", "Arch": "", "BuildTime": "Built", "Experimental": "Experimental",
        "GitCommit": "Git commit", "GoVersion": "Go version", "KernelVersion": "Kernel", "MinAPIVersion": "Minimum API",
        "Os": "OS/Arch", "PythonVersion": "Python version",
    }  # fmt: skip
    for component in components:
        lines += [f" {component['Name']}:", f"  {'Version:':<17} {component['Version']}"]
        details = component.get("Details") or {}
        for key, title in titles.items():
            if title and (value := details.get(key)):
                shown = f"{value}/{details.get('Arch', '')}" if key == "Os" else str(value)
                lines.append(f"  {title + ':':<17} {shown}")
    return lines


@click.command("info", cls=Command)
@click.option("-f", "--format", "template", metavar="FORMAT", help="json, or a Go template.")
def info(template: str | None) -> None:
    """Display system-wide information."""
    found = current().get("/info")
    if template:
        print(_render(found, template))
        return
    lines = [
        f"Client:\n Version:    {sampan.__version__}\n",
        "Server:",
        f" Containers: {found.get('Containers', 0)}",
        f"  Running: {found.get('ContainersRunning', 0)}",
        f"  Paused: {found.get('ContainersPaused', 0)}",
        f"  Stopped: {found.get('ContainersStopped', 0)}",
        f" Images: {found.get('Images', 0)}",
        f" Server Version: {found.get('ServerVersion', '')}",
        f" Storage Driver: {found.get('Driver', '')}",
        *(f"  {name}: {value}" for name, value in found.get("DriverStatus") or []),
        f" Logging Driver: {found.get('LoggingDriver', '')}",
        f" Cgroup Driver: {found.get('CgroupDriver', '')}",
        f" Cgroup Version: {found.get('CgroupVersion', '')}",
        " Plugins:",
        *(
            f"  {kind}: {' '.join(names or [])}"
            for kind, names in (found.get("Plugins") or {}).items()
            if names
        ),
        f" Runtimes: {' '.join(sorted(found.get('Runtimes') or {}))}",
        f" Default Runtime: {found.get('DefaultRuntime', '')}",
        " Security Options:",
        *(f"  {option}" for option in found.get("SecurityOptions") or []),
        f" Kernel Version: {found.get('KernelVersion', '')}",
        f" Operating System: {found.get('OperatingSystem', '')}",
        f" OSType: {found.get('OSType', '')}",
        f" Architecture: {found.get('Architecture', '')}",
        f" CPUs: {found.get('NCPU', 0)}",
        f" Total Memory: {binary_size(found.get('MemTotal') or 0)}",
        f" Name: {found.get('Name', '')}",
        f" ID: {found.get('ID', '')}",
        f" Docker Root Dir: {found.get('DockerRootDir', '')}",
        f" Debug Mode: {'true' if found.get('Debug') else 'false'}",
    ]  # fmt: skip
    print("\n".join(lines))
    for warning in found.get("Warnings") or []:
        print(warning, file=sys.stderr)


@click.command("events", cls=Command)
@click.option("-f", "--filter", "filters", multiple=True, metavar="NAME=VALUE", help="Show only what matches.")
@click.option("--format", "template", metavar="FORMAT", help="json, or a Go template.")
@click.option("--since", metavar="TIME", help="Show what is later than a time, or a duration ago (42m).")
@click.option("--until", metavar="TIME", help="Stop at a time, or a duration ago (42m).")
def events(filters: tuple[str, ...], template: str | None, since: str | None, until: str | None) -> None:
    """Get real time events from the server."""
    try:
        ends = {name: since_stamp(text) if text else None for name, text in (("since", since), ("until", until))}
    except ValueError as error:
        raise CliError(str(error), status=CANNOT_RUN) from error
    with current().stream("GET", "/events", {**ends, "filters": filters_query(filters)}) as response:
        for event in response.json_stream():
            print(_render(event, template) if template else _event_line(event), flush=True)


def _event_line(event: Mapping[str, Any]) -> str:
    stamp = event.get("timeNano") or event.get("time", 0) * 10**9
    moment = time.localtime(stamp // 10**9)
    zone = time.strftime("%z", moment)
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    when = f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{stamp % 10**9:09d}{zone}"
    actor = event.get("Actor") or {}
    attributes = ", ".join(f"{name}={value}" for name, value in sorted((actor.get("Attributes") or {}).items()))
    line = f"{when} {event.get('Type', '')} {event.get('Action', '')} {actor.get('ID', '')}"
    return f"{line} ({attributes})" if attributes else line


@click.command("prune", cls=Command)
@click.option("-a", "--all", "everything", is_flag=True, help="Remove all unused images, not only untagged ones.")
@click.option("--volumes", is_flag=True, help="Remove anonymous volumes too.")
@click.option("--filter", "filters", multiple=True, metavar="NAME=VALUE", help="Remove only what matches.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
def prune(everything: bool, volumes: bool, filters: tuple[str, ...], force: bool) -> None:
    """Remove stopped containers, unused networks and images."""
    kinds = ["stopped containers", "unused networks", "unused images" if everything else "untagged images"]
    kinds += ["unused anonymous volumes"] if volumes else []
    if not confirmed(f"This will remove all {', '.join(kinds)}.", force):
        return
    client = current()
    steps = [("containers", filters), ("networks", filters)]
    steps += [("volumes", filters)] if volumes else []
    steps.append(("images", (*filters, f"dangling={'false' if everything else 'true'}")))
    reclaimed = 0
    for kind, wanted in steps:
        answer = client.post(f"/{kind}/prune", {"filters": filters_query(wanted)})
        reclaimed += answer.get("SpaceReclaimed") or 0
        deleted = answer.get(f"{kind.capitalize()}Deleted") or []
        if deleted:
            print(f"Deleted {kind.capitalize()}:")
            for item in deleted:
                print(*(f"{what.lower()}: {value}" for what, value in item.items()) if kind == "images" else (item,))
            print()
    print(f"Total reclaimed space: {human_size(reclaimed)}")
