"""One container: its status, which is asked of the kernel each time, and the driver with its handle."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sampan.api.errors import Conflict
from sampan_runtime_native.cli.store import Record, Store
from sampan_runtime_native.files import Files

if TYPE_CHECKING:
    from sampan.api.runtime import Handle
    from sampan_runtime_native.driver import NativeRuntime

CREATING: Final = "creating"
CREATED: Final = "created"
RUNNING: Final = "running"
PAUSED: Final = "paused"
STOPPED: Final = "stopped"


def status_of(store: Store, record: Record) -> str:
    """Give the status as the specification names it, and `paused` as runc does."""
    if record.handle is None:
        return CREATING if store.is_held(record.id) else STOPPED
    if record.boot != boot_id() or birth_of(record.pid) != record.born:
        return STOPPED
    from sampan.linux.cgroups import Cgroup

    if Cgroup(record.cgroup).is_frozen():
        return PAUSED
    return CREATED if Files(store.driver_directory(record.id)).has_gate() else RUNNING


def driver_for(store: Store, container: str) -> NativeRuntime:
    """Give a driver that keeps its files with the container's record."""
    from sampan.api.runtime import RuntimeContext
    from sampan_runtime_native.driver import NativeRuntime

    return NativeRuntime(RuntimeContext(store.driver_directory(container)), {})


def handle_of(record: Record) -> Handle:
    """Give the driver's handle; of a container that was never finished, one that says where its cgroup is."""
    from sampan.api.runtime import Handle

    if record.handle is None:
        return Handle(0, data={"cgroup": record.cgroup})
    return Handle(record.pid, record.handle["version"], record.handle["data"])


def delete(store: Store, record: Record) -> None:
    """Kill what is left of a container that is held, and forget it."""
    driver_for(store, record.id).delete(handle_of(record))
    store.forget(record.id)


def state_of(record: Record, status: str) -> dict[str, Any]:
    """Give the state as the specification has it (`runtime.md`, State), with runc's additions."""
    state = {
        "ociVersion": record.oci_version,
        "id": record.id,
        "pid": 0 if status == STOPPED else record.pid,
        "status": status,
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
    }
    return {**state, "annotations": record.annotations} if record.annotations else state


def require(record: Record, status: str, allowed: tuple[str, ...], message: str) -> None:
    """Raise `Conflict` unless `status` is one of those allowed."""
    if status not in allowed:
        raise Conflict(f"container {record.id!r}: {message} (it is {status})")


def birth_of(pid: int) -> int:
    """Give the start time of a process in clock ticks since boot (`proc(5)`, stat, field 22); 0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def boot_id() -> str:
    """Give the id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def now() -> str:
    """Give the time in UTC, in the form of RFC 3339."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09}Z"


def write_pid_file(path: str, pid: int) -> None:
    """Write a pid so that a reader sees all of it or nothing. Raises `OSError`."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_text(str(pid))
        temporary.rename(target)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
