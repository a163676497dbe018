"""What the forked children do: build the runtime driver and call it. Nothing here runs in the shim itself."""

from __future__ import annotations

import importlib
import json
import os
import socket
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sampan.api.errors import InvalidArgument, NotFound
from sampan.api.runtime import (
    CheckpointRequest,
    CreateRequest,
    ExecRequest,
    Handle,
    Recovered,
    RuntimeContext,
    RuntimeDriver,
    Spec,
    Stdio,
)
from sampan.launch import records
from sampan.launch.operations import monotonic_ns
from sampan.launch.protocol import ClassRef, ExecConfig, Namespaces, ShimConfig, Span


def load_class(ref: ClassRef) -> Any:
    """Import a driver class. Raises `NotFound` with the reason."""
    try:
        return getattr(importlib.import_module(ref.module), ref.name)
    except (ImportError, AttributeError) as error:
        raise NotFound(
            f"load driver {ref.module}:{ref.name}: {error}", remedy="install the distribution that has it"
        ) from error


def launch(config: ShimConfig, stdio: Stdio, given: Namespaces) -> dict[str, Any]:
    """Create and start the container; give its handle and the spans. The handle is on disk before the
    start.
    """
    driver = _driver(config)
    spec = _read_spec(config)
    began = monotonic_ns()
    request = CreateRequest(config.id, Path(config.bundle), spec, config.rootfs, stdio, given.network, given.user)
    handle = driver.restore(request, Path(config.checkpoint)) if config.checkpoint else driver.create(request)
    created = monotonic_ns()
    records.write_handle(config.state_dir, handle)
    saved = monotonic_ns()
    if not config.checkpoint:
        driver.start(handle)
    spans = [
        Span("create", type(driver).name, began, created),
        Span("save-handle", "shim", created, saved),
        Span("start", type(driver).name, saved, monotonic_ns()),
    ]
    return {
        "handle": [handle.pid, handle.version, dict(handle.data)],
        "cgroup": _cgroup(spec),
        "spans": [span.to_data() for span in spans],
    }


def launched_pid(result: dict[str, Any]) -> int:
    """Give the first process, from what `launch` gave."""
    pid: int = result["handle"][0]
    return pid


def execute(config: ShimConfig, handle: Handle, request: ExecConfig, stdio: Stdio) -> int:
    """Start one more process and give its pid."""
    return _driver(config).exec(handle, ExecRequest(request.id, dict(request.process), stdio))


def call(config: ShimConfig, handle: Handle, method: str, *args: Any, **options: Any) -> Callable[[], Any]:
    """Give the work that calls one method of the driver with the handle."""
    return lambda: getattr(_driver(config), method)(handle, *args, **options)


def checkpoint(config: ShimConfig, handle: Handle, directory: str, leave_running: bool) -> Callable[[], None]:
    """Give the work that writes the container's processes to files."""
    return lambda: _driver(config).checkpoint(handle, CheckpointRequest(Path(directory), leave_running))


def stats(config: ShimConfig, handle: Handle) -> dict[str, Any]:
    """Read the container's use."""
    return asdict(_driver(config).stats(handle))


class Recovery:
    """What one child does about the container of a shim that died: it asks the driver to go on, and then waits."""

    def __init__(self, config: ShimConfig, handle: Handle, streams: socket.socket) -> None:
        """What the driver has kept of the container's streams goes over `streams`."""
        self._config, self._handle, self._streams = config, handle, streams
        self._recovered: Recovered | None = None

    def begin(self) -> dict[str, Any] | None:
        """Give the names of the streams that were sent, in order, and the cgroup; None if the container can't go on."""
        self._recovered = _driver(self._config).recover(self._handle)
        if self._recovered is None:
            return None
        fds = self._recovered.streams.descriptors
        if fds:
            socket.send_fds(self._streams, [b"!"], list(fds.values()))
        for fd in fds.values():
            os.close(fd)
        return {"streams": list(fds), "cgroup": _cgroup(_read_spec(self._config))}

    def wait(self) -> int | None:
        """Wait for the exit code; None for a container that does not go on."""
        return None if self._recovered is None else self._recovered.wait()


def _cgroup(spec: Spec) -> str:
    """Where the kernel counts the container's memory, "" if it does not."""
    path: str = spec.get("linux", {}).get("cgroupsPath", "")
    return path


def _read_spec(config: ShimConfig) -> Spec:
    path = Path(config.bundle, "config.json")
    try:
        spec: Spec = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"read {path}: {error}", remedy="the bundle must hold an OCI config.json") from error
    return spec


def _driver(config: ShimConfig) -> RuntimeDriver:
    driver: RuntimeDriver = load_class(config.runtime)(
        RuntimeContext(Path(config.state_dir, "runtime"), Path(config.cache_dir) if config.cache_dir else None), config.runtime_config
    )
    return driver
