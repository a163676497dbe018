"""Checkpoints: a running container's processes as files, from which it can be started again (`docker checkpoint`).

They lie in the container's own directory, or where the client says. One appears whole, by rename; what a crash has left of
another is removed when one of its name is made.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

from sampan.api.errors import Conflict, InvalidArgument, NotFound, SampanError, Unsupported, host_errors
from sampan.api.runtime import RuntimeCapability
from sampan.engine.container import Container
from sampan.engine.containers import attributes
from sampan.engine.events import EventBus
from sampan.engine.runtimes import Runtimes

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")


class Checkpoints:
    """Makes, finds and removes checkpoints. `directory` is where they are all kept; None: with the container."""

    def __init__(self, runtimes: Runtimes, events: EventBus) -> None:
        self._runtimes = runtimes
        self._events = events

    def names(self, container: Container, directory: Path | None = None) -> list[str]:
        """Give the names of a container's checkpoints. Raises `NotFound` for a directory that is not there."""
        place = _place(container, directory)
        if not place.is_dir():
            if directory is not None:
                raise NotFound(f'checkpoint directory "{place}" does not exist for container {container.record.name}')
            return []
        return sorted(entry.name for entry in place.iterdir() if entry.is_dir() and _NAME.match(entry.name))

    def find(self, container: Container, name: str, directory: Path | None = None) -> Path:
        """Give the place of a checkpoint. Raises `NotFound`, `InvalidArgument` for what can't be its name."""
        found = _place(container, directory) / _checked(name)
        if not found.is_dir():
            raise NotFound(f"checkpoint {name} does not exist for container {container.record.name}")
        return found

    async def create(self, container: Container, name: str, directory: Path | None, *, leave_running: bool) -> None:
        """Write the container's processes to files, and end it unless it is to go on.

        Raises `Conflict` if it does not run or the name is taken, `Unsupported` with the reason why it can't be done here.
        """
        target = _place(container, directory) / _checked(name)
        async with container.lock:
            shim = container.shim
            if shim is None or not container.is_running:
                raise Conflict(f"container {container.id} is not running")
            if container.record.config.tty:
                raise Unsupported(f"checkpoint container {container.record.name}: it has a terminal, which can't be kept")
            await self._require(container)
            if await asyncio.to_thread(target.exists):
                raise Conflict(f"checkpoint with name {name} already exists for container {container.record.name}")
            unfinished = target.with_name(f".{name}.new")
            with host_errors(f"make checkpoint {name}"):
                await asyncio.to_thread(_make_empty, unfinished)
            try:
                await shim.checkpoint(unfinished, leave_running=leave_running)
                with host_errors(f"make checkpoint {name}"):
                    await asyncio.to_thread(unfinished.rename, target)
            except BaseException as error:
                await asyncio.to_thread(shutil.rmtree, unfinished, ignore_errors=True)
                if isinstance(error, SampanError):
                    what = f"Cannot checkpoint container {container.record.name}: {error.message}"
                    raise type(error)(what, remedy=error.remedy) from error
                raise
            if not leave_running:
                container.record.manually_stopped = True
        self._events.emit("container", "checkpoint", container.id, attributes(container.record))

    async def remove(self, container: Container, name: str, directory: Path | None = None) -> None:
        """Remove a checkpoint. Raises as `find`, and `System`."""
        found = await asyncio.to_thread(self.find, container, name, directory)
        with host_errors(f"remove checkpoint {name}"):
            await asyncio.to_thread(shutil.rmtree, found)

    async def _require(self, container: Container) -> None:
        runtime = container.record.runtime
        found = await self._runtimes.probe(runtime)
        if RuntimeCapability.CHECKPOINT not in found.capabilities:
            reason = found.lacks.get(RuntimeCapability.CHECKPOINT)
            raise Unsupported(
                f"checkpoint container {container.record.name}: {reason or f'runtime {runtime!r} has no checkpoints'}",
                remedy="" if reason else "make it with one that has, as --runtime runc",
            )


def _place(container: Container, directory: Path | None) -> Path:
    if directory is not None and not directory.is_absolute():
        raise InvalidArgument(f"invalid checkpoint directory {str(directory)!r}: it must be an absolute path")
    return directory or container.directories.root / "checkpoints"


def _checked(name: str) -> str:
    if not _NAME.match(name):
        raise InvalidArgument(f"invalid checkpoint ID {name!r}, only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return name


def _make_empty(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(mode=0o700, parents=True)
