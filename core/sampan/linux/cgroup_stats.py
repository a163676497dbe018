"""What the processes of a cgroup use, as one typed reading from v1 or v2.

Sources: the kernel's `cgroup-v1/{cpuacct,memory,pids,blkio-controller}.rst` and `admin-guide/cgroup-v2.rst`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sampan.linux.cgroup_files import number, pairs, text
from sampan.linux.cgroup_layout import Layout

_NO_LIMIT_V1: Final = 2**62
"""v1 says no limit by the largest number of whole pages, which depends on their size."""


@dataclass(frozen=True, slots=True)
class CpuStats:
    """Nanoseconds since the cgroup was made, and how often its quota stopped it. v2 has no `percpu_ns`."""

    total_ns: int = 0
    user_ns: int = 0
    system_ns: int = 0
    percpu_ns: tuple[int, ...] = ()
    periods: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """Bytes; no `limit` is None. `stat` is `memory.stat` with the kernel's names, which differ in v1 and v2.

    `failures` is how often the limit stood in the way: v1's `failcnt`, v2's `oom` of `memory.events`. `peak` is 0
    on v2 before Linux 5.19.
    """

    usage: int = 0
    peak: int = 0
    limit: int | None = None
    failures: int = 0
    stat: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PidsStats:
    """How many processes and threads there are and may be; no `limit` is None."""

    current: int = 0
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class BlockCount:
    """A count of one block device. `operation` is `Read`, `Write`, `Discard`, and in v1 also `Sync`, `Async`, `Total`."""

    major: int
    minor: int
    operation: str
    value: int


@dataclass(frozen=True, slots=True)
class BlockStats:
    """What went to and came from block devices: bytes, and requests."""

    service_bytes: tuple[BlockCount, ...] = ()
    serviced: tuple[BlockCount, ...] = ()


@dataclass(frozen=True, slots=True)
class Stats:
    """A reading. `version` is that of the cgroups it is from, which says what `memory.stat` means; 0 for none.

    What the host has no controller for is 0, or empty.
    """

    version: int = 0
    cpu: CpuStats = CpuStats()
    memory: MemoryStats = MemoryStats()
    pids: PidsStats = PidsStats()
    block: BlockStats = BlockStats()

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Stats:
        """Read back what `dataclasses.asdict` and JSON made of one."""
        cpu = {**data["cpu"], "percpu_ns": tuple(data["cpu"]["percpu_ns"])}
        block = {key: tuple(BlockCount(**each) for each in counts) for key, counts in data["block"].items()}
        return cls(
            data["version"], CpuStats(**cpu), MemoryStats(**data["memory"]), PidsStats(**data["pids"]),
            BlockStats(**block),
        )  # fmt: skip


def read_stats(layout: Layout, path: str) -> Stats:
    """Read the cgroup `path`, each controller where the host has it. Raises `OSError`: `ENOENT` when it is gone."""
    unified = layout.unified + path

    def of(controller: str) -> str:
        return layout.root_of(controller) + path

    stats = Stats(
        1 if layout.version_of("memory") == 1 else 2,
        _cpu_v1(layout.v1.get("cpu", "") + path, of("cpuacct")) if "cpuacct" in layout.v1 else _cpu_v2(unified),
        _memory_v1(of("memory")) if layout.version_of("memory") == 1 else _memory_v2(unified),
        PidsStats(number(of("pids") + "/pids.current"), _limit(of("pids") + "/pids.max")),
        _block_v1(of("io")) if layout.version_of("io") == 1 else _block_v2(unified),
    )
    os.stat(layout.roots[0] + path)  # what is gone has read as all zeroes
    return stats


def _cpu_v1(cpu: str, cpuacct: str) -> CpuStats:
    quota = pairs(cpu + "/cpu.stat")
    times = pairs(cpuacct + "/cpuacct.stat")
    tick_ns = 10**9 // os.sysconf("SC_CLK_TCK")
    return CpuStats(
        number(cpuacct + "/cpuacct.usage"),
        times.get("user", 0) * tick_ns,
        times.get("system", 0) * tick_ns,
        tuple(map(int, text(cpuacct + "/cpuacct.usage_percpu").split())),
        quota.get("nr_periods", 0),
        quota.get("nr_throttled", 0),
        quota.get("throttled_time", 0),
    )


def _cpu_v2(directory: str) -> CpuStats:
    cpu = pairs(directory + "/cpu.stat")
    return CpuStats(
        cpu.get("usage_usec", 0) * 1000,
        cpu.get("user_usec", 0) * 1000,
        cpu.get("system_usec", 0) * 1000,
        (),
        cpu.get("nr_periods", 0),
        cpu.get("nr_throttled", 0),
        cpu.get("throttled_usec", 0) * 1000,
    )


def _memory_v1(memory: str) -> MemoryStats:
    limit = number(memory + "/memory.limit_in_bytes")
    return MemoryStats(
        number(memory + "/memory.usage_in_bytes"),
        number(memory + "/memory.max_usage_in_bytes"),
        limit if 0 < limit < _NO_LIMIT_V1 else None,
        number(memory + "/memory.failcnt"),
        pairs(memory + "/memory.stat"),
    )


def _memory_v2(directory: str) -> MemoryStats:
    return MemoryStats(
        number(directory + "/memory.current"),
        number(directory + "/memory.peak"),
        _limit(directory + "/memory.max"),
        pairs(directory + "/memory.events").get("oom", 0),
        pairs(directory + "/memory.stat"),
    )


def _block_v1(blkio: str) -> BlockStats:
    return BlockStats(
        tuple(_counts_v1(blkio + "/blkio.throttle.io_service_bytes_recursive")),
        tuple(_counts_v1(blkio + "/blkio.throttle.io_serviced_recursive")),
    )


def _block_v2(directory: str) -> BlockStats:
    counts = tuple(_counts_v2(directory + "/io.stat"))
    names = (_V2_BYTES, _V2_COUNTS)
    return BlockStats(
        *(tuple(BlockCount(major, minor, of[key], n) for major, minor, key, n in counts if key in of) for of in names)
    )


_V2_BYTES: Final = {"rbytes": "Read", "wbytes": "Write", "dbytes": "Discard"}
_V2_COUNTS: Final = {"rios": "Read", "wios": "Write", "dios": "Discard"}


def _limit(name: str) -> int | None:
    found = text(name).strip()
    return int(found) if found.isdigit() else None


def _counts_v1(name: str) -> Iterator[BlockCount]:
    """Lines as `8:0 Read 4096`, and one `Total 4096`."""
    for line in text(name).splitlines():
        device, _, rest = line.partition(" ")
        major, colon, minor = device.partition(":")
        operation, _, value = rest.partition(" ")
        if colon and value:
            yield BlockCount(int(major), int(minor), operation, int(value))


def _counts_v2(name: str) -> Iterator[tuple[int, int, str, int]]:
    """Lines as `8:0 rbytes=4096 wbytes=0 rios=1 …`; a device may have none of them."""
    for line in text(name).splitlines():
        device, *counts = line.split()
        major, _, minor = device.partition(":")
        for count in counts:
            key, _, value = count.partition("=")
            if value.isdigit():
                yield int(major), int(minor), key, int(value)
