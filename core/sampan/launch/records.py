"""What a shim leaves on disk for those who come after it: the runtime's handle, and how the container ended.

Each file appears whole, by rename: a kill of any process leaves the old one or the new one. Loss of power may lose both.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from sampan.api.errors import NotFound, System
from sampan.api.runtime import Handle
from sampan.launch.protocol import ExitRecord

HANDLE = "handle.json"
"""Name of the runtime's handle in the state directory."""

EXIT = "exit.json"
"""Name of the exit record in the container's root directory."""

MAX_SIZE = 1 << 20
"""No file of these is longer, in bytes."""


def write_handle(state_dir: str, handle: Handle) -> None:
    """Keep the handle. Raises `OSError`."""
    data = {"pid": handle.pid, "version": handle.version, "data": dict(handle.data)}
    _write(state_dir, HANDLE, json.dumps(data).encode())


def read_handle(state_dir: str) -> Handle:
    """Give the handle that was kept. Raises `NotFound`, and `System` for what is none."""
    path = f"{state_dir}/{HANDLE}"
    try:
        data = json.loads(_read(path))
        return Handle(data["pid"], data["version"], data["data"])
    except FileNotFoundError as error:
        raise NotFound(f"read the runtime's handle {path}: there is none") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise System(f"read the runtime's handle {path}: {error}", remedy="remove the container with force") from error


def remove_handle(state_dir: str) -> None:
    """Remove the handle if there is one. Raises `OSError`."""
    _remove(f"{state_dir}/{HANDLE}")


def write_exit(root_dir: str, record: ExitRecord) -> None:
    """Keep the exit record. Raises `OSError`."""
    _write(root_dir, EXIT, json.dumps(record.to_data()).encode())


def read_exit(root_dir: str | Path) -> ExitRecord | None:
    """Give the exit record of a shim that is gone, or None if there is none that can be read."""
    try:
        return ExitRecord.from_data(json.loads(_read(f"{root_dir}/{EXIT}")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_exit(root_dir: str) -> None:
    """Remove the record of an earlier run if there is one. Raises `OSError`."""
    _remove(f"{root_dir}/{EXIT}")


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, MAX_SIZE)
    finally:
        os.close(fd)


def _write(directory: str, name: str, data: bytes) -> None:
    temporary = f"{directory}/.{name}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(data)
        while rest:  # a disk that is nearly full takes a part
            rest = rest[os.write(fd, rest) :]
    finally:
        os.close(fd)
    os.rename(temporary, f"{directory}/{name}")


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
