"""What the forked children do: build the runtime driver and call it. Nothing here runs in the shim itself."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from sampan.api.errors import InvalidArgument, NotFound
from sampan.api.runtime import CreateRequest, ExecRequest, Handle, RuntimeContext, RuntimeDriver, Stdio
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
    bundle_file = config.bundle / "config.json"
    try:
        spec = json.loads(bundle_file.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"read {bundle_file}: {error}", remedy="the bundle must hold an OCI config.json") from error
    began = monotonic_ns()
    request = CreateRequest(config.id, config.bundle, spec, config.rootfs, stdio, given.network, given.user)
    handle = driver.create(request)
    created = monotonic_ns()
    records.write_handle(config.state_dir, handle)
    saved = monotonic_ns()
    driver.start(handle)
    spans = [
        Span("create", type(driver).name, began, created),
        Span("save-handle", "shim", created, saved),
        Span("start", type(driver).name, saved, monotonic_ns()),
    ]
    return {"handle": [handle.pid, handle.version, dict(handle.data)], "spans": [span.to_data() for span in spans]}


def execute(config: ShimConfig, handle: Handle, request: ExecConfig, stdio: Stdio) -> int:
    """Start one more process and give its pid."""
    return _driver(config).exec(handle, ExecRequest(request.id, dict(request.process), stdio))


def call(config: ShimConfig, handle: Handle, method: str, *args: Any, **options: Any) -> Callable[[], Any]:
    """Give the work that calls one method of the driver with the handle."""
    return lambda: getattr(_driver(config), method)(handle, *args, **options)


def stats(config: ShimConfig, handle: Handle) -> dict[str, Any]:
    """Read the container's use."""
    return asdict(_driver(config).stats(handle))


def _driver(config: ShimConfig) -> RuntimeDriver:
    driver: RuntimeDriver = load_class(config.runtime)(
        RuntimeContext(config.state_dir / "runtime"), config.runtime_config
    )
    return driver
