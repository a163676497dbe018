"""Docker's view of a reading, on cgroup v1 and v2: field by field as moby's daemon and containerd's cgroups library make it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from sampan.api.runtime import BlockCount, BlockStats, CpuStats, MemoryStats, PidsStats, Stats
from sampan.api.types import ContainerConfig, HostConfig
from sampan.engine.container import Container, Directories
from sampan.engine.records import ContainerRecord
from sampan.engine.stats import Reading
from sampan.http.resources.container_stats import view
from sampan.linux.use import InterfaceCounts, SystemUse, machine_memory

IO = (BlockCount(8, 0, "Read", 4096), BlockCount(8, 0, "Write", 512), BlockCount(8, 0, "Discard", 1))


def reading(use: Stats, time_ns: int = 10**9) -> Reading:
    return Reading(time_ns, use, SystemUse(7 * 10**9, 2), {"eth0": InterfaceCounts(1, 2, 3, 4, 5, 6, 7, 8)})


def shown(before: Reading | None, now: Reading | None) -> dict[str, Any]:
    async def show() -> dict[str, Any]:
        record = ContainerRecord(
            id="c" * 64, name="one", created=0, image_id="", config=ContainerConfig(), host=HostConfig(),
            storage_driver="vfs", runtime="native", log_driver="json-file",
        )  # fmt: skip
        return view(Container(record, Directories(Path("/nowhere"), Path("/nowhere"))), before, now)

    return asyncio.run(show())


def test_v2() -> None:
    use = Stats(
        2,
        CpuStats(100, 60, 40, (), 5, 2, 9),
        MemoryStats(4096, 9999, None, 3, {"anon": 1, "inactive_file": 2, "zswap": 4}),
        PidsStats(3, None),
        BlockStats(IO, IO),
    )
    found = shown(reading(Stats(2, CpuStats(total_ns=90)), 10**8), reading(use))
    assert found["cpu_stats"] == {
        "cpu_usage": {"total_usage": 100, "usage_in_kernelmode": 40, "usage_in_usermode": 60},
        "system_cpu_usage": 7 * 10**9,
        "online_cpus": 2,
        "throttling_data": {"periods": 5, "throttled_periods": 2, "throttled_time": 9},
    }
    assert found["precpu_stats"]["cpu_usage"]["total_usage"] == 90
    assert found["pids_stats"] == {"current": 3, "limit": 2**64 - 1}
    memory = found["memory_stats"]
    assert (memory["usage"], memory["failcnt"], memory["limit"]) == (4096, 3, machine_memory())
    assert "max_usage" not in memory
    assert (memory["stats"]["inactive_file"], memory["stats"]["pgscan"]) == (2, 0)
    assert "zswap" not in memory["stats"]
    assert found["blkio_stats"]["io_service_bytes_recursive"] == [
        {"major": 8, "minor": 0, "op": "read", "value": 4096}, {"major": 8, "minor": 0, "op": "write", "value": 512},
    ]  # fmt: skip
    assert found["blkio_stats"]["io_serviced_recursive"] is None
    assert found["networks"]["eth0"]["tx_bytes"] == 5
    assert (found["name"], found["read"], found["preread"]) == (
        "/one",
        "1970-01-01T00:00:01Z",
        "1970-01-01T00:00:00.1Z",
    )


def test_v1() -> None:
    use = Stats(
        1,
        CpuStats(100, 60, 40, (30, 70)),
        MemoryStats(
            4096, 9999, 64 << 20, 3, {"cache": 5, "total_inactive_file": 2, "hierarchical_memory_limit": 64 << 20}
        ),
        PidsStats(3, None),
        BlockStats(IO, ()),
    )
    found = shown(None, reading(use))
    assert found["cpu_stats"]["cpu_usage"]["percpu_usage"] == (30, 70)
    assert found["pids_stats"] == {"current": 3}
    assert (found["memory_stats"]["max_usage"], found["memory_stats"]["limit"]) == (9999, 64 << 20)
    assert found["memory_stats"]["stats"]["total_inactive_file"] == 2
    assert [each["op"] for each in found["blkio_stats"]["io_service_bytes_recursive"]] == ["Read", "Write", "Discard"]
    assert found["blkio_stats"]["io_serviced_recursive"] == found["blkio_stats"]["io_merged_recursive"] == []
    assert found["preread"] == "0001-01-01T00:00:00Z"


def test_of_what_does_not_run() -> None:
    found = shown(reading(Stats(1)), None)
    assert found["read"] == found["preread"] == "0001-01-01T00:00:00Z"
    assert (found["pids_stats"], found["memory_stats"], found["blkio_stats"]["io_merged_recursive"]) == ({}, {}, None)
    assert "networks" not in found and "online_cpus" not in found["cpu_stats"]
