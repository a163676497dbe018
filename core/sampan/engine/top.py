"""The processes of a container as the host's `ps` tells them (`docker top`).

`ps` sees the whole host, so its lines are chosen by the pids that the runtime knows; options that would have another column
pass for the pid's are refused.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sampan.api.errors import Conflict, InvalidArgument, Unsupported
from sampan.engine.container import Container
from sampan.engine.records import Status

DEFAULT_OPTIONS = "-ef"

_DISGUISED = re.compile(r"\s+(\S*)=\s*(PID\S*)")
"""A column under the title PID, as in `-o user=PID`."""

_NAMED_PIDS = 4096
"""Pids that still fit into one argument of `ps`; of more it lists the whole host."""


@dataclass(frozen=True, slots=True)
class ProcessTable:
    """What `ps` says: the titles, and a row for each process, threads of it perhaps below it."""

    titles: list[str]
    rows: list[list[str]]


async def process_table(container: Container, options: str) -> ProcessTable:
    """List a container's processes. Raises `Conflict` if it does not run, and what `ps` says of its options."""
    for name, title in _DISGUISED.findall(options):
        if name != "pid":
            raise InvalidArgument(f'specifying "{name}={title}" is not allowed')
    if "\0" in options:
        raise InvalidArgument("invalid options of ps: they may not contain NUL")
    await container.settle()
    if container.status is Status.RESTARTING:
        raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
    if container.shim is None or not container.is_running:
        raise Conflict(f"Container {container.id} is not running")
    if shutil.which("ps") is None:
        raise Unsupported("list processes: the host has no `ps`", remedy="apt-get install procps")
    pids = set(await container.shim.processes())
    return await asyncio.to_thread(_ask_ps, pids, (options or DEFAULT_OPTIONS).split())


def _ask_ps(pids: Collection[int], options: Sequence[str]) -> ProcessTable:
    """Run `ps` for these pids, or for all where it does not take them beside its other options, as with `f`."""
    done = None
    if 0 < len(pids) <= _NAMED_PIDS:
        done = _run([*options, f"-q{','.join(map(str, pids))}"])
    if done is None or done.returncode:
        done = _run(options)
    if done.returncode:
        reason = done.stderr.strip().partition("\n")[0] or f"status {done.returncode}"
        raise InvalidArgument(f"list processes: ps: {reason}")
    return choose(done.stdout.splitlines(), pids)


def _run(options: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ps", *options], capture_output=True, text=True, errors="replace", check=False)


def choose(lines: Sequence[str], pids: Collection[int]) -> ProcessTable:
    """Take the lines of `pids` from what `ps` wrote, and of their threads, which have `-` for a pid.

    Raises `InvalidArgument` where there is no pid to choose by.
    """
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise InvalidArgument("Couldn't find PID field in ps output")
    column = titles.index("PID")
    rows: list[list[str]] = []
    belongs = False
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) <= column:
            continue
        if fields[column] != "-":
            belongs = fields[column].isdigit() and int(fields[column]) in pids
        if belongs:
            rows.append(fields)
    return ProcessTable(titles, rows)
