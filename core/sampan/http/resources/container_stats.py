"""`/containers/{id}/stats`: what a container uses, once or every second, in Docker's words."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from sampan.api.errors import InvalidArgument
from sampan.api.runtime import BlockCount, MemoryStats, PidsStats, Stats
from sampan.engine.container import Container
from sampan.engine.engine import Engine
from sampan.engine.stats import Reading
from sampan.engine.times import ZERO, rfc3339
from sampan.http.request import Request
from sampan.http.response import AnyResponse, StreamResponse, json_response
from sampan.http.router import Router
from sampan.linux.use import machine_memory

_V1_MEMORY = (
    "cache", "rss", "rss_huge", "mapped_file", "dirty", "writeback", "pgpgin", "pgpgout", "pgfault", "pgmajfault",
    "inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable",
)  # fmt: skip
"""Docker's choice of v1's `memory.stat`; each also as `total_…`, of the cgroups below as well."""

_V1_LIMITS = ("hierarchical_memory_limit", "hierarchical_memsw_limit")

_V2_MEMORY = (
    "anon", "file", "kernel_stack", "slab", "sock", "shmem", "file_mapped", "file_dirty", "file_writeback", "anon_thp",
    "inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable", "slab_reclaimable", "slab_unreclaimable",
    "pgfault", "pgmajfault", "workingset_refault", "workingset_activate", "workingset_nodereclaim", "pgrefill", "pgscan",
    "pgsteal", "pgactivate", "pgdeactivate", "pglazyfree", "pglazyfreed", "thp_fault_alloc", "thp_collapse_alloc",
)  # fmt: skip
"""Docker's choice of v2's; what this kernel has not is 0."""

_BLOCK_OTHERS = (
    "io_queue_recursive", "io_service_time_recursive", "io_wait_time_recursive", "io_merged_recursive", "io_time_recursive",
    "sectors_recursive",
)  # fmt: skip
"""What the kernel told of block devices once, and clients may look for."""

_NO_LIMIT_V2 = 2**64 - 1
"""How Docker writes v2's `max` of processes; of v1 it leaves the limit out."""


class StatsRoutes:
    """The handlers, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register(self, router: Router) -> None:
        """Add the routes."""
        router.add("GET", "/containers/{id}/stats", self.stats)

    async def stats(self, request: Request) -> AnyResponse:
        """Give one reading, or one a second."""
        container = self._engine.containers.get(request.params["id"])
        stream, one_shot = request.query.get_bool("stream", True), request.query.get_bool("one-shot")
        if stream and one_shot:
            raise InvalidArgument("cannot have stream=true and one-shot=true")
        await container.settle()
        if not stream and (one_shot or not container.is_running):
            return json_response(view(container, None, await self._engine.stats.read(container)))
        readings = self._engine.stats.watch(container)
        first = await anext(readings, None)  # here its error can still be told
        if stream:
            return StreamResponse(200, "application/json", _lines(container, first, readings))
        async with aclosing(readings):
            return json_response(view(container, first, await anext(readings, None)))


async def _lines(
    container: Container, first: Reading | None, readings: AsyncGenerator[Reading | None, None]
) -> AsyncIterator[bytes]:
    async with aclosing(readings):
        yield _line(container, None, first)
        before = first
        async for reading in readings:
            yield _line(container, before, reading)
            before = reading


def _line(container: Container, before: Reading | None, reading: Reading | None) -> bytes:
    return json.dumps(view(container, before, reading), separators=(",", ":")).encode() + b"\n"


def view(container: Container, before: Reading | None, reading: Reading | None) -> dict[str, Any]:
    """Give a reading with the one before it; of a container that doesn't run, Docker's empty one."""
    shown: dict[str, Any] = {
        "name": f"/{container.record.name}",
        "id": container.id,
        "read": rfc3339(reading.time_ns) if reading else ZERO,
        "preread": rfc3339(before.time_ns) if reading and before else ZERO,
        "pids_stats": _pids(reading.use) if reading else {},
        "blkio_stats": _block(reading.use if reading else None),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(reading),
        "precpu_stats": _cpu(before if reading else None),
        "memory_stats": _memory(reading.use) if reading else {},
    }
    if reading and reading.networks:
        shown["networks"] = {name: asdict(counts) for name, counts in reading.networks.items()}
    return shown


def _cpu(reading: Reading | None) -> dict[str, Any]:
    cpu = (reading.use if reading else Stats()).cpu
    usage: dict[str, Any] = {"total_usage": cpu.total_ns}
    if cpu.percpu_ns:
        usage["percpu_usage"] = cpu.percpu_ns
    shown: dict[str, Any] = {
        "cpu_usage": usage | {"usage_in_kernelmode": cpu.system_ns, "usage_in_usermode": cpu.user_ns}
    }
    if reading:
        shown |= {"system_cpu_usage": reading.system.cpu_ns, "online_cpus": reading.system.processors}
    throttling = {
        "periods": cpu.periods,
        "throttled_periods": cpu.throttled_periods,
        "throttled_time": cpu.throttled_ns,
    }
    return shown | {"throttling_data": throttling}


def _pids(use: Stats) -> dict[str, int]:
    pids: PidsStats = use.pids
    shown = {"current": pids.current, "limit": pids.limit or (_NO_LIMIT_V2 if use.version == 2 else 0)}
    return {key: value for key, value in shown.items() if value}


def _memory(use: Stats) -> dict[str, Any]:
    memory: MemoryStats = use.memory
    if not use.version:
        return {}
    names = _V2_MEMORY if use.version == 2 else (*_V1_MEMORY, *(f"total_{name}" for name in _V1_MEMORY), *_V1_LIMITS)
    shown = {
        "usage": memory.usage,
        "max_usage": memory.peak if use.version == 1 else 0,
        "failcnt": memory.failures,
        "limit": min(memory.limit or machine_memory(), machine_memory()),
    }
    stat = {name: memory.stat.get(name, 0) for name in names}
    return {key: value for key, value in shown.items() if value} | {"stats": stat}


def _block(use: Stats | None) -> dict[str, Any]:
    """Give bytes and requests; v2 lists only reading and writing in bytes, as Docker shows it."""
    if use is None or use.version != 1:
        counts = [each for each in use.block.service_bytes if each.operation in ("Read", "Write")] if use else []
        shown = [_counted(each, each.operation.lower()) for each in counts] or None
        return {"io_service_bytes_recursive": shown, "io_serviced_recursive": None, **dict.fromkeys(_BLOCK_OTHERS)}
    return {
        "io_service_bytes_recursive": _all_counted(use.block.service_bytes),
        "io_serviced_recursive": _all_counted(use.block.serviced),
        **{name: [] for name in _BLOCK_OTHERS},
    }


def _all_counted(counts: Sequence[BlockCount]) -> list[dict[str, Any]]:
    return [_counted(each, each.operation) for each in counts]


def _counted(count: BlockCount, operation: str) -> dict[str, Any]:
    return {"major": count.major, "minor": count.minor, "op": operation, "value": count.value}
