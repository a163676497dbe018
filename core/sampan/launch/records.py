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


def write_handle(state_dir: Path, handle: Handle) -> None:
    """Keep the handle. Raises `OSError`."""
    data = {"pid": handle.pid, "version": handle.version, "data": dict(handle.data)}
    _write(state_dir / HANDLE, json.dumps(data).encode())


def read_handle(state_dir: Path) -> Handle:
    """Give the handle that was kept. Raises `NotFound`, and `System` for what is none."""
    path = state_dir / HANDLE
    try:
        data = json.loads(path.read_bytes())
        return Handle(data["pid"], data["version"], data["data"])
    except FileNotFoundError as error:
        raise NotFound(f"read the runtime's handle {path}: there is none") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise System(f"read the runtime's handle {path}: {error}", remedy="remove the container with force") from error


def write_exit(root_dir: Path, record: ExitRecord) -> None:
    """Keep the exit record. Raises `OSError`."""
    _write(root_dir / EXIT, json.dumps(record.to_data()).encode())


def read_exit(root_dir: Path) -> ExitRecord | None:
    """Give the exit record of a shim that is gone, or None if there is none that can be read."""
    try:
        return ExitRecord.from_data(json.loads((root_dir / EXIT).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    temporary.rename(path)
