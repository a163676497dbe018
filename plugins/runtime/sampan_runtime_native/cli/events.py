"""`events`: use of resources as one JSON object a line, in runc's shape, and kills for want of memory."""

from __future__ import annotations

import json
import select
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sampan.api.errors import Conflict, System
from sampan_runtime_native.cli import container
from sampan_runtime_native.cli.store import Record, Store

if TYPE_CHECKING:
    from sampan.linux.cgroup_oom import OomWatch
    from sampan.linux.cgroup_stats import BlockCount, Stats


def events(options: Namespace) -> int:
    """Write one reading with `--stats`; otherwise one each interval, and an `oom` whenever memory ran out, to the end."""
    store = Store(options.root)
    record = store.read(options.id)
    if container.status_of(store, record) in (container.STOPPED, container.CREATING):
        raise Conflict(f"container with id {record.id} is not running")
    if options.stats:
        _write(record, "stats", _reading(store, record))
    else:
        _follow(store, record, options.interval)
    return 0


def _follow(store: Store, record: Record, interval: float) -> None:
    """Go on until the container has ended: its cgroup goes with it, or its first process does."""
    from sampan.linux.cgroup_oom import OomWatch
    from sampan.linux.cgroups import Cgroup

    try:
        watch = OomWatch(Cgroup(record.cgroup))
    except OSError as error:
        raise System(f"watch the memory of container {record.id}: {error.strerror}") from error
    due = time.monotonic()
    try:
        while container.status_of(store, record) != container.STOPPED:
            if time.monotonic() >= due:
                _write(record, "stats", _reading(store, record))
                due += interval
            if not _wait(watch, record, due):
                break
    finally:
        watch.close()


def _wait(watch: OomWatch, record: Record, due: float) -> bool:
    """Wait until a reading is due, telling of kills. False when the cgroup is gone."""
    poll = select.poll()
    poll.register(watch, watch.events)
    while (left := due - time.monotonic()) > 0:
        if not poll.poll(left * 1000):
            return True
        happened = watch.read()
        if happened is None:
            return False
        if happened:
            _write(record, "oom", None)
    return True


def _reading(store: Store, record: Record) -> dict[str, Any]:
    return as_runc(container.driver_for(store, record.id).stats(container.handle_of(record)))


def _write(record: Record, kind: str, data: dict[str, Any] | None) -> None:
    event: dict[str, Any] = {"type": kind, "id": record.id}
    sys.stdout.write(json.dumps(event if data is None else {**event, "data": data}) + "\n")
    sys.stdout.flush()


def as_runc(stats: Stats) -> dict[str, Any]:
    """Give a reading as runc's `types.Stats`: nanoseconds and bytes; a limit that is not there is 0."""
    cpu, memory = stats.cpu, stats.memory
    return {
        "cpu": {
            "usage": {"total": cpu.total_ns, "percpu": list(cpu.percpu_ns), "kernel": cpu.system_ns, "user": cpu.user_ns},
            "throttling": {
                "periods": cpu.periods, "throttledPeriods": cpu.throttled_periods, "throttledTime": cpu.throttled_ns,
            },
        },
        "memory": {
            "cache": memory.stat.get("cache", memory.stat.get("file", 0)),
            "usage": {"limit": memory.limit or 0, "usage": memory.usage, "max": memory.peak, "failcnt": memory.failures},
            "raw": dict(memory.stat),
        },
        "pids": {"current": stats.pids.current, "limit": stats.pids.limit or 0},
        "blkio": {
            "ioServiceBytesRecursive": _counts(stats.block.service_bytes),
            "ioServicedRecursive": _counts(stats.block.serviced),
        },
    }  # fmt: skip


def _counts(counts: Sequence[BlockCount]) -> list[dict[str, Any]]:
    return [{"major": each.major, "minor": each.minor, "op": each.operation, "value": each.value} for each in counts]
