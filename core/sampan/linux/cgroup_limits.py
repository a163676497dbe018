"""From an OCI `linux.resources` object to values of cgroup files. Nothing is written here.

Each controller is asked for where the host has it: in v1, or in v2, also on one host. What the host cannot do is
refused, never left out. Devices are in `cgroup_devices`. Sources: OCI runtime spec `config-linux.md#control-groups`;
the kernel's cgroup-v1 and cgroup-v2 guides.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol


class Write(NamedTuple):
    """A value for a file of a controller; the controller as v2 names it."""

    controller: str
    file: str
    value: str


Step = tuple[Write, ...]
"""Writes that must fit each other: the kernel takes them in one order or another, depending on what was before."""

Resources = Mapping[str, Any]


class Kernel(Protocol):
    """What has to be known of the host and of the cgroup as it is."""

    def prepare(self, controller: str) -> int:
        """Have a controller in the cgroup, and say which version's files it has: 1, 2, or 0 for none at all."""

    def has_file(self, controller: str, file: str) -> bool:
        """Whether there is such a file."""

    def read(self, controller: str, file: str) -> str:
        """Read a file."""


def limits(resources: Resources, kernel: Kernel) -> Iterator[Step]:
    """Give what to write, in order. What `resources` doesn't mention is not touched.

    Raises `ValueError` for a bad value, `OSError` EOPNOTSUPP for what this host has no means for.
    """
    for key, parts in _PARTS.items():
        if part := resources.get(key):
            yield from parts(part, kernel)


def weight_of_shares(shares: int) -> int:
    """Give the v2 `cpu.weight` (1 to 10000, 100 is usual) for v1 `cpu.shares` (2 to 262144, 1024 is usual).

    The line through both ends, as runc 1.1 to 1.3 and Docker's documentation have it: 1024 becomes 39.
    """
    shares = min(max(shares, 2), 262144)
    return 1 + (shares - 2) * 9999 // 262142


def weight_of_blkio(weight: int) -> int:
    """Give the v2 `io.weight` (1 to 10000) for a v1 blkio weight (10 to 1000)."""
    weight = min(max(weight, 10), 1000)
    return 1 + (weight - 10) * 9999 // 990


# Memory


def _memory(memory: Resources, kernel: Kernel) -> Iterator[Step]:
    version = _needed(kernel, "memory", "memory")
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if swap > 0 and limit > 0 and swap < limit:
        raise ValueError(f"memory.swap {swap} is below memory.limit {limit}: it is memory and swap together")
    if (memory.get("kernel") or 0) > 0:
        raise _unable("memory.kernel", "Linux has had no limit of kernel memory alone since 5.16")
    if memory.get("useHierarchy") is False:
        raise _unable("memory.useHierarchy", "Linux counts what is below in any case, since 5.11")
    yield from _memory_v1(memory, limit, swap, kernel) if version == 1 else _memory_v2(memory, limit, swap, kernel)


def _memory_v1(memory: Resources, limit: int, swap: int, kernel: Kernel) -> Iterator[Step]:
    if limit < 0 and not swap and kernel.has_file("memory", "memory.memsw.limit_in_bytes"):
        swap = -1  # one without the other would be refused
    step = []
    if limit:
        step.append(Write("memory", "memory.limit_in_bytes", str(limit)))
    if swap:
        step.append(Write("memory", "memory.memsw.limit_in_bytes", str(swap)))
    yield tuple(step)
    for key, file in (
        ("reservation", "memory.soft_limit_in_bytes"), ("kernelTCP", "memory.kmem.tcp.limit_in_bytes"),
    ):  # fmt: skip
        if memory.get(key):
            yield (Write("memory", file, str(memory[key])),)
    if memory.get("swappiness") is not None:
        if not 0 <= memory["swappiness"] <= 100:
            raise ValueError(f"memory.swappiness {memory['swappiness']} is not from 0 to 100")
        yield (Write("memory", "memory.swappiness", str(memory["swappiness"])),)
    if memory.get("disableOOMKiller") is not None:
        yield (Write("memory", "memory.oom_control", "1" if memory["disableOOMKiller"] else "0"),)


def _memory_v2(memory: Resources, limit: int, swap: int, kernel: Kernel) -> Iterator[Step]:
    for key, what in (
        ("disableOOMKiller", "way to turn the OOM killer off"), ("kernelTCP", "limit of TCP buffers alone"),
    ):  # fmt: skip
        if (memory.get(key) or 0) > 0:
            raise _unable(f"memory.{key}", f"cgroup v2 has no {what}")
    if memory.get("swappiness") is not None:
        raise _unable("memory.swappiness", "cgroup v2 has no swappiness of its own")
    if limit < 0 and not swap:
        swap = -1  # as v1 would have it
    if swap > 0 and limit <= 0:
        raise ValueError("memory.swap without memory.limit: cgroup v2 limits swap alone, which is their difference")
    # A kernel that counts no swap has nothing to limit or to free.
    if swap > limit or (swap and kernel.has_file("memory", "memory.swap.max")):
        yield (Write("memory", "memory.swap.max", "max" if swap < 0 else str(swap - limit)),)
    if limit:
        yield (Write("memory", "memory.max", _or_max(limit)),)
    if memory.get("reservation"):
        yield (Write("memory", "memory.low", _or_max(memory["reservation"])),)


# Processors


def _cpu(cpu: Resources, kernel: Kernel) -> Iterator[Step]:
    if any(
        cpu.get(key) is not None
        for key in ("shares", "quota", "period", "burst", "idle", "realtimeRuntime", "realtimePeriod")
    ):
        yield from _cpu_v1(cpu) if _needed(kernel, "cpu", "cpu") == 1 else _cpu_v2(cpu, kernel)
    for key in ("cpus", "mems"):
        if cpu.get(key):
            _needed(kernel, "cpuset", f"cpu.{key}")
            yield (Write("cpuset", f"cpuset.{key}", cpu[key]),)


def _cpu_v1(cpu: Resources) -> Iterator[Step]:
    shares = cpu.get("shares") or 0
    if shares and not 2 <= shares <= 262144:
        raise ValueError(
            f"the {'minimum' if shares < 2 else 'maximum'} allowed cpu-shares is {2 if shares < 2 else 262144}"
        )
    # An idle cgroup takes no shares.
    yield _set(cpu, ("shares", "cpu.shares"), ("idle", "cpu.idle"))
    # None of these may exceed what the others and the parent's allow.
    yield _set(cpu, ("period", "cpu.cfs_period_us"), ("quota", "cpu.cfs_quota_us"), ("burst", "cpu.cfs_burst_us"))
    yield _set(cpu, ("realtimePeriod", "cpu.rt_period_us"), ("realtimeRuntime", "cpu.rt_runtime_us"))


def _set(cpu: Resources, *names: tuple[str, str]) -> Step:
    """Those that are given; 0 is no value but for what is 0 by default."""
    return tuple(
        Write("cpu", file, str(cpu[key]))
        for key, file in names
        if cpu.get(key) or (key in ("idle", "burst") and cpu.get(key) is not None)
    )


def _cpu_v2(cpu: Resources, kernel: Kernel) -> Iterator[Step]:
    if cpu.get("realtimeRuntime") or cpu.get("realtimePeriod"):
        raise _unable("cpu.realtimeRuntime", "cgroup v2 has no real-time budget")
    step = [Write("cpu", "cpu.weight", str(weight_of_shares(cpu["shares"])))] if cpu.get("shares") else []
    yield (*step, *_set(cpu, ("idle", "cpu.idle")))
    step = []
    quota, period = cpu.get("quota") or 0, cpu.get("period") or 0
    if quota or period:
        # The kernel has no way to name the period alone.
        allowed = _or_max(quota) if quota else (kernel.read("cpu", "cpu.max").split() or ["max"])[0]
        step = [Write("cpu", "cpu.max", f"{allowed} {period}" if period else allowed)]
    yield (*step, *_set(cpu, ("burst", "cpu.max.burst")))


# Block devices

_THROTTLES = (
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
)


def _block_io(block: Resources, kernel: Kernel) -> Iterator[Step]:
    version = _needed(kernel, "io", "blockIO")
    yield from _block_weights(block, kernel, version)
    for key, v1, v2 in _THROTTLES:
        for each in block.get(key) or ():
            if version == 1:
                yield (Write("io", v1, f"{_device(each)} {each['rate']}"),)
            else:
                yield (Write("io", "io.max", f"{_device(each)} {v2}={_or_max(each['rate'])}"),)


def _block_weights(block: Resources, kernel: Kernel, version: int) -> Iterator[Step]:
    devices = block.get("weightDevice") or ()
    if version == 2 and (block.get("leafWeight") or any(each.get("leafWeight") for each in devices)):
        raise _unable("blockIO.leafWeight", "cgroup v2 has no leaf weights")
    if version == 1:
        name = "blkio.bfq.weight" if kernel.has_file("io", "blkio.bfq.weight") else "blkio.weight"
        files = (("weight", name), ("leafWeight", "blkio.leaf_weight"))
        for key, file in files:
            if block.get(key):
                yield (Write("io", file, str(block[key])),)
            for each in devices:
                if each.get(key):
                    yield (Write("io", f"{file}_device", f"{_device(each)} {each[key]}"),)
        return
    # BFQ has its own file; without it the weight is that of the cost model (io.cost), on another scale.
    bfq = kernel.has_file("io", "io.bfq.weight")
    for device, weight in (
        ("default", block.get("weight")),
        *((_device(each), each.get("weight")) for each in devices),
    ):
        if weight:
            file, value = ("io.bfq.weight", weight) if bfq else ("io.weight", weight_of_blkio(weight))
            yield (Write("io", file, f"{device} {value}"),)


# The rest


def _pids(pids: Resources, kernel: Kernel) -> Iterator[Step]:
    if pids.get("limit") is not None:
        _needed(kernel, "pids", "pids")
        yield (Write("pids", "pids.max", "max" if pids["limit"] < 0 else str(pids["limit"])),)


def _hugepages(entries: Any, kernel: Kernel) -> Iterator[Step]:
    file = "limit_in_bytes" if _needed(kernel, "hugetlb", "hugepageLimits") == 1 else "max"
    for each in entries:
        prefix = f"hugetlb.{each['pageSize']}"
        yield (Write("hugetlb", f"{prefix}.{file}", str(each["limit"])),)
        if kernel.has_file("hugetlb", f"{prefix}.rsvd.{file}"):
            yield (Write("hugetlb", f"{prefix}.rsvd.{file}", str(each["limit"])),)


def _network(network: Resources, kernel: Kernel) -> Iterator[Step]:
    if network.get("classID") is not None:
        _needed(kernel, "net_cls", "network.classID")
        yield (Write("net_cls", "net_cls.classid", str(network["classID"])),)
    for each in network.get("priorities") or ():
        _needed(kernel, "net_prio", "network.priorities")
        yield (Write("net_prio", "net_prio.ifpriomap", f"{each['name']} {each['priority']}"),)


def _rdma(devices: Resources, kernel: Kernel) -> Iterator[Step]:
    _needed(kernel, "rdma", "rdma")
    for name, each in devices.items():
        values = [
            f"{file}={each[key]}"
            for key, file in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
            if each.get(key) is not None
        ]
        if not values:
            raise ValueError(f"rdma {name!r} has neither hcaHandles nor hcaObjects")
        yield (Write("rdma", "rdma.max", " ".join((name, *values))),)


def _unified(files: Mapping[str, str], kernel: Kernel) -> Iterator[Step]:
    for file, value in files.items():
        controller, dot, _ = file.partition(".")
        if "/" in file or "\0" in file or not controller or not dot:
            raise ValueError(f"unified: {file!r} is not the name of a cgroup file, CONTROLLER.PARAMETER")
        if file in ("cgroup.procs", "cgroup.threads"):
            raise ValueError(f"unified: {file} is no setting: it moves processes")
        if controller != "cgroup" and kernel.prepare(controller) != 2:
            raise _unable(f"unified {file!r}", f"this host has no cgroup v2 controller {controller}")
        for line in str(value).splitlines():
            yield (Write(controller, file, line),)


_PARTS = {
    "memory": _memory, "cpu": _cpu, "pids": _pids, "blockIO": _block_io, "hugepageLimits": _hugepages, "network": _network,
    "rdma": _rdma, "unified": _unified,
}  # fmt: skip


def _needed(kernel: Kernel, controller: str, what: str) -> int:
    """Give the version of a controller that must be there."""
    version = kernel.prepare(controller)
    if not version:
        raise _unable(what, f"this host has no cgroup controller {controller}")
    return version


def _unable(what: str, why: str) -> OSError:
    return OSError(errno.EOPNOTSUPP, f"{what}: {why}")


def _or_max(value: int) -> str:
    return "max" if value <= 0 else str(value)


def _device(entry: Resources) -> str:
    return f"{entry['major']}:{entry['minor']}"
