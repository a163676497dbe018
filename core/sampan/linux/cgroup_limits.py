"""From an OCI `linux.resources` object to values of cgroup files. Pure: nothing here touches the host.

Devices are in `cgroup_devices`. Sources: OCI runtime spec `config-linux.md#control-groups`; the kernel's
cgroup-v1 and cgroup-v2 guides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Writes = list[tuple[str, str, str]]
"""(v1 controller, file, value), in the order in which the kernel takes them."""

_THROTTLES = (
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
)


def limits_v1(resources: Mapping[str, Any], memory_limit_now: int = 0) -> Writes:
    """Give the writes for v1 hierarchies. `memory_limit_now` is the limit in force, in bytes."""
    writes: Writes = []
    memory = resources.get("memory") or {}
    writes += _memory_v1(memory, memory_limit_now)
    cpu = resources.get("cpu") or {}
    for key, file in (
        ("shares", "cpu.shares"), ("period", "cpu.cfs_period_us"), ("quota", "cpu.cfs_quota_us"),
        ("burst", "cpu.cfs_burst_us"), ("realtimePeriod", "cpu.rt_period_us"),
        ("realtimeRuntime", "cpu.rt_runtime_us"), ("idle", "cpu.idle"),
    ):  # fmt: skip
        if cpu.get(key):
            writes.append(("cpu", file, str(cpu[key])))
    for key, file in (("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")):
        if cpu.get(key):
            writes.append(("cpuset", file, cpu[key]))
    pids = resources.get("pids") or {}
    if pids.get("limit") is not None:
        writes.append(("pids", "pids.max", _or_max(pids["limit"])))
    block = resources.get("blockIO") or {}
    if block.get("weight"):
        writes.append(("blkio", "blkio.bfq.weight", str(block["weight"])))
    for each in block.get("weightDevice") or ():
        writes.append(("blkio", "blkio.bfq.weight_device", f"{_device(each)} {each['weight']}"))
    for key, file, _ in _THROTTLES:
        for each in block.get(key) or ():
            writes.append(("blkio", file, f"{_device(each)} {each['rate']}"))
    for each in resources.get("hugepageLimits") or ():
        writes.append(("hugetlb", f"hugetlb.{each['pageSize']}.limit_in_bytes", str(each["limit"])))
    network = resources.get("network") or {}
    if network.get("classID"):
        writes.append(("net_cls", "net_cls.classid", str(network["classID"])))
    for each in network.get("priorities") or ():
        writes.append(("net_prio", "net_prio.ifpriomap", f"{each['name']} {each['priority']}"))
    return writes


def limits_v2(resources: Mapping[str, Any]) -> Writes:
    """Give the writes for the v2 tree; the controller of each is only for the reader.

    Raises `ValueError` for what v2 cannot express.
    """
    writes: Writes = []
    memory = resources.get("memory") or {}
    limit, swap = memory.get("limit"), memory.get("swap")
    if memory.get("disableOOMKiller"):
        raise ValueError("memory.disableOOMKiller: cgroup v2 has no way to turn the OOM killer off")
    if swap is not None and swap != 0:
        writes.append(("memory", "memory.swap.max", _swap_v2(limit, swap)))
    if limit is not None and limit != 0:
        writes.append(("memory", "memory.max", _or_max(limit)))
    if memory.get("reservation"):
        writes.append(("memory", "memory.low", _or_max(memory["reservation"])))
    cpu = resources.get("cpu") or {}
    if cpu.get("shares"):
        writes.append(("cpu", "cpu.weight", str(weight_of_shares(cpu["shares"]))))
    if cpu.get("idle"):
        writes.append(("cpu", "cpu.idle", str(cpu["idle"])))
    if cpu.get("quota") or cpu.get("period"):
        quota = cpu.get("quota") or -1
        period = f" {cpu['period']}" if cpu.get("period") else ""
        writes.append(("cpu", "cpu.max", ("max" if quota < 0 else str(quota)) + period))
    if cpu.get("burst"):
        writes.append(("cpu", "cpu.max.burst", str(cpu["burst"])))
    for key, file in (("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")):
        if cpu.get(key):
            writes.append(("cpuset", file, cpu[key]))
    if cpu.get("realtimeRuntime"):
        raise ValueError("cpu.realtimeRuntime: cgroup v2 has no real-time budget")
    pids = resources.get("pids") or {}
    if pids.get("limit") is not None:
        writes.append(("pids", "pids.max", _or_max(pids["limit"])))
    block = resources.get("blockIO") or {}
    if block.get("weight"):
        writes.append(("io", "io.weight", f"default {weight_of_blkio(block['weight'])}"))
    for each in block.get("weightDevice") or ():
        writes.append(("io", "io.weight", f"{_device(each)} {weight_of_blkio(each['weight'])}"))
    for key, _, name in _THROTTLES:
        for each in block.get(key) or ():
            writes.append(("io", "io.max", f"{_device(each)} {name}={_or_max(each['rate'])}"))
    for each in resources.get("hugepageLimits") or ():
        writes.append(("hugetlb", f"hugetlb.{each['pageSize']}.max", _or_max(each["limit"])))
    for file, value in (resources.get("unified") or {}).items():
        if "/" in file:
            raise ValueError(f"unified: {file!r} is not the name of a cgroup file")
        writes.append((file.partition(".")[0], file, str(value)))
    return writes


def weight_of_shares(shares: int) -> int:
    """Give the v2 `cpu.weight` (1 to 10000, 100 is usual) for v1 `cpu.shares` (2 to 262144, 1024 is usual).

    The line through both ends, as runc 1.1 and Docker's documentation have it: 1024 becomes 39.
    """
    shares = min(max(shares, 2), 262144)
    return 1 + (shares - 2) * 9999 // 262142


def weight_of_blkio(weight: int) -> int:
    """Give the v2 `io.weight` (1 to 10000) for a v1 blkio weight (10 to 1000)."""
    weight = min(max(weight, 10), 1000)
    return 1 + (weight - 10) * 9999 // 990


def _memory_v1(memory: Mapping[str, Any], limit_now: int) -> Iterable[tuple[str, str, str]]:
    pair: Writes = []
    if memory.get("limit"):
        pair.append(("memory", "memory.limit_in_bytes", str(memory["limit"])))
    if memory.get("swap"):
        pair.append(("memory", "memory.memsw.limit_in_bytes", str(memory["swap"])))
    # memory+swap may never be below memory: raise it first, lower it last.
    limit = memory.get("limit") or 0
    if len(pair) == 2 and (memory["swap"] < 0 or limit > limit_now > 0):
        pair.reverse()
    yield from pair
    if memory.get("reservation"):
        yield "memory", "memory.soft_limit_in_bytes", str(memory["reservation"])
    if memory.get("kernelTCP"):
        yield "memory", "memory.kmem.tcp.limit_in_bytes", str(memory["kernelTCP"])
    if memory.get("swappiness") is not None:
        yield "memory", "memory.swappiness", str(memory["swappiness"])
    if memory.get("disableOOMKiller") is not None:
        yield "memory", "memory.oom_control", "1" if memory["disableOOMKiller"] else "0"


def _swap_v2(limit: int | None, swap: int) -> str:
    """OCI counts memory and swap together, v2 swap alone."""
    if swap < 0:
        return "max"
    if limit is None or limit <= 0:
        raise ValueError("memory.swap without memory.limit has no meaning on cgroup v2")
    if swap < limit:
        raise ValueError(f"memory.swap {swap} is below memory.limit {limit}")
    return str(swap - limit)


def _or_max(value: int) -> str:
    return "max" if value <= 0 else str(value)


def _device(entry: Mapping[str, Any]) -> str:
    return f"{entry['major']}:{entry['minor']}"
