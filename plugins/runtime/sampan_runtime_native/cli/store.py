"""Containers on disk: a directory each under `--root`, with `state.json` and the driver's own files.

Changes are made under a lock of that directory, so that of two commands at once one waits, or is refused. Whoever only reads
takes no lock: `state.json` is replaced by rename. A command that is killed lets go of its lock; what it left half done is a
record without a handle, which `delete` takes away.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from sampan.api.errors import Conflict, NotFound, System, Unsupported

VERSION: Final = 1
"""Of `state.json`. A file of another version is refused."""

_STATE: Final = "state.json"
_DRIVER: Final = "driver"


class Record(NamedTuple):
    """What is known of a container. `born` is the first process's start time in clock ticks and `boot` the id of the
    boot it counts from: a pid alone may be another's by now. `handle` is the driver's, None until `create` is done.
    """

    id: str
    bundle: str
    rootfs: str
    oci_version: str
    annotations: Mapping[str, str]
    cgroup: str
    created: str
    boot: str
    born: int = 0
    handle: Mapping[str, Any] | None = None

    @property
    def pid(self) -> int:
        """The first process; 0 before there is one."""
        return self.handle["pid"] if self.handle else 0


class Store:
    """The containers under one root. Methods raise `System` for what the host refuses."""

    def __init__(self, root: str) -> None:
        """Touches nothing."""
        self._root = Path(root).absolute()

    def ids(self) -> list[str]:
        """Give the ids of all containers, sorted."""
        with _host(f"list containers in {self._root}"):
            try:
                return sorted(each.name for each in self._root.iterdir() if (each / _STATE).exists())
            except FileNotFoundError:
                return []

    def driver_directory(self, container: str) -> Path:
        """Where the driver has its files."""
        return self._root / container / _DRIVER

    def read(self, container: str) -> Record:
        """Give what is known. Raises `NotFound`, `Unsupported` for a file of another version."""
        path = self._root / container / _STATE
        with _host(f"read {path}"):
            try:
                data = json.loads(path.read_bytes())
            except (FileNotFoundError, NotADirectoryError) as error:
                raise NotFound(f"container {container!r} does not exist") from error
            except ValueError as error:
                raise System(
                    f"read {path}: {error}", remedy="remove the directory once its processes are gone"
                ) from error
        version = data.pop("version", None)
        if version != VERSION:
            raise Unsupported(
                f"container {container!r}: its state has version {version}, this program knows {VERSION}",
                remedy=f"use the release that made it, or end its processes and remove {path.parent}",
            )
        return Record(**data)

    def is_held(self, container: str) -> bool:
        """Whether a command is changing the container now."""
        try:
            fd = self._open(container)
        except FileNotFoundError:
            return False
        try:
            return not _lock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        finally:
            os.close(fd)

    def write(self, record: Record) -> None:
        """Replace what is known, by whoever holds the container."""
        path = self._root / record.id / _STATE
        with _host(f"write {path}"):
            temporary = path.with_suffix(".new")
            temporary.write_text(json.dumps({"version": VERSION, **record._asdict()}))
            temporary.rename(path)

    @contextlib.contextmanager
    def new(self, container: str) -> Iterator[None]:
        """Hold a new, empty container. Raises `Conflict` if there is one of that id, or is about to be."""
        with _host(f"create {self._root / container}"):
            self._root.mkdir(mode=0o711, parents=True, exist_ok=True)
            fd = self._open_new(container)
        try:
            if (self._root / container / _STATE).exists():
                raise _taken(container)
            yield
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def held(self, container: str) -> Iterator[Record]:
        """Hold a container; waits for a command that does. Raises `NotFound`."""
        with _host(f"open {self._root / container}"):
            try:
                fd = self._open(container)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise NotFound(f"container {container!r} does not exist") from error
            _lock(fd, fcntl.LOCK_EX)
        try:
            yield self.read(container)  # if another has deleted it meanwhile, there is nothing to read
        finally:
            os.close(fd)

    def forget(self, container: str) -> None:
        """Remove all that is known, by whoever holds the container. The record goes last but for its directory."""
        directory = self._root / container
        with _host(f"remove {directory}"):
            with contextlib.suppress(FileNotFoundError):
                (directory / _DRIVER).rmdir()
            for name in (_STATE, "state.new"):
                (directory / name).unlink(missing_ok=True)
            directory.rmdir()

    def _open_new(self, container: str) -> int:
        while True:
            with contextlib.suppress(FileExistsError):
                (self._root / container).mkdir(mode=0o700)
            try:
                fd = self._open(container)
            except FileNotFoundError:
                continue  # it was there, and is being deleted
            if not _lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
                os.close(fd)
                raise _taken(container)
            if os.fstat(fd).st_nlink:
                return fd
            os.close(fd)

    def _open(self, container: str) -> int:
        return os.open(self._root / container, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _lock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how)
    except BlockingIOError:
        return False
    return True


def _taken(container: str) -> Conflict:
    return Conflict(f"container with given ID already exists: {container}", remedy="delete it, or take another ID")


@contextlib.contextmanager
def _host(operation: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise System(f"{operation}: {error.strerror or error}") from error
