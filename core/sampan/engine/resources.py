"""A container's limits: checked at create, turned into the OCI `linux.resources` object at start."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sampan.api.errors import InvalidArgument
from sampan.api.types import HostConfig, Ulimit
from sampan.engine.host_limits import host_limits

MIN_MEMORY = 6 << 20
"""Docker's least memory limit in bytes."""

DEFAULT_CPU_PERIOD = 100_000
"""Microseconds."""

DEFAULT_SHM_SIZE = 64 << 20

ULIMITS = frozenset(
    "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split()
)
"""The names of `--ulimit`; see getrlimit(2)."""

ONLINE_CPUS = Path("/sys/devices/system/cpu/online")
ONLINE_NODES = Path("/sys/devices/system/node/online")

MAX_LISTED = 8192
"""The largest number taken in a list of processors or nodes, as many as Linux can have."""


def check_limits(host: HostConfig) -> list[str]:
    """Refuse limits that contradict themselves or the host, in Docker's words; give warnings for what is only odd."""
    warnings: list[str] = []
    if host.memory and host.memory < MIN_MEMORY:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if host.memory_swap > 0 and not host.memory:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if host.memory_swap > 0 and host.memory_swap < host.memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if 0 < host.memory_reservation < MIN_MEMORY:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if host.memory_reservation and host.memory and host.memory < host.memory_reservation:
        raise InvalidArgument("Minimum memory limit can not be less than memory reservation limit, see usage")
    if host.memory_swappiness is not None and not -1 <= host.memory_swappiness <= 100:
        raise InvalidArgument(f"Invalid value: {host.memory_swappiness}, valid memory swappiness range is 0-100")
    if host.nano_cpus and (host.cpu_period or host.cpu_quota):
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Period/Quota cannot both be set")
    cpus = os.cpu_count() or 1
    if host.nano_cpus < 0 or host.nano_cpus > cpus * 10**9:
        raise InvalidArgument(f"Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available")
    if host.cpu_shares < 0:
        raise InvalidArgument(f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer")
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < host.cpu_quota < 1000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    _check_set("CPUs", "cpuset cpus", host.cpuset_cpus, ONLINE_CPUS)
    _check_set("memory nodes", "cpuset mems", host.cpuset_mems, ONLINE_NODES)
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    if host.oom_score_adj and not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidArgument(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    check_ulimits(host.ulimits)
    if ".." in host.cgroup_parent.split("/"):
        raise InvalidArgument(f"invalid cgroup parent {host.cgroup_parent!r}: it may not contain '..'")
    if "\0" in host.cgroup_parent:
        raise InvalidArgument(f"invalid cgroup parent {host.cgroup_parent!r}: it may not contain NUL")
    if host.shm_size < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    if host.cpu_realtime_period or host.cpu_realtime_runtime:
        _check_realtime(host)
    if host.oom_kill_disable and not host.memory:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources."
        )
    return warnings


def check_ulimits(limits: Sequence[Ulimit]) -> None:
    """Refuse limits that are unknown or contradict themselves. Raises `InvalidArgument`."""
    for limit in limits:
        if limit.name not in ULIMITS:
            raise InvalidArgument(f"invalid ulimit type: {limit.name}")
        if limit.hard != -1 and (limit.soft > limit.hard or limit.soft == -1):
            raise InvalidArgument(f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}")


def _check_realtime(host: HostConfig) -> None:
    if not host_limits().cpu_realtime:
        raise InvalidArgument("kernel does not support CPU real-time scheduler")
    if 0 < host.cpu_realtime_period < host.cpu_realtime_runtime:
        raise InvalidArgument("cpu real-time runtime cannot be higher than cpu real-time period")


def _check_set(kind: str, option: str, text: str, online: Path) -> None:
    if not text:
        return
    try:
        wanted = parse_list(text)
    except ValueError:
        raise InvalidArgument(f"Invalid value {text} for {option}") from None
    available = online.read_text().strip() if online.exists() else "0"
    if not wanted <= parse_list(available):
        raise InvalidArgument(f"Requested {kind} are not available - requested {text}, available: {available}")


def parse_list(text: str) -> set[int]:
    """Read a list of numbers as cpuset(7) writes it: `0-2,4`. Raises `ValueError`."""
    found: set[int] = set()
    for part in text.split(","):
        low, separator, high = part.partition("-")
        first = int(low)
        last = int(high) if separator else first
        if not 0 <= first <= last <= MAX_LISTED:
            raise ValueError(f"not a range: {part!r}")
        found.update(range(first, last + 1))
    return found


def linux_resources(host: HostConfig) -> dict[str, Any]:
    """Give the OCI `linux.resources` object without its device rules."""
    memory: dict[str, Any] = {}
    if host.memory:
        memory["limit"] = host.memory
        memory["swap"] = host.memory_swap or host.memory * 2
    if host.memory_reservation:
        memory["reservation"] = host.memory_reservation
    if host.memory_swappiness is not None and host.memory_swappiness >= 0:
        memory["swappiness"] = host.memory_swappiness
    if host.oom_kill_disable:
        memory["disableOOMKiller"] = True
    cpu: dict[str, Any] = {}
    if host.cpu_shares:
        cpu["shares"] = host.cpu_shares
    if host.nano_cpus:
        cpu["period"] = DEFAULT_CPU_PERIOD
        cpu["quota"] = host.nano_cpus * DEFAULT_CPU_PERIOD // 10**9
    if host.cpu_period:
        cpu["period"] = host.cpu_period
    if host.cpu_quota:
        cpu["quota"] = host.cpu_quota
    if host.cpu_realtime_period:
        cpu["realtimePeriod"] = host.cpu_realtime_period
    if host.cpu_realtime_runtime:
        cpu["realtimeRuntime"] = host.cpu_realtime_runtime
    if host.cpuset_cpus:
        cpu["cpus"] = host.cpuset_cpus
    if host.cpuset_mems:
        cpu["mems"] = host.cpuset_mems
    resources: dict[str, Any] = {}
    if memory:
        resources["memory"] = memory
    if cpu:
        resources["cpu"] = cpu
    if host.pids_limit and host.pids_limit > 0:
        resources["pids"] = {"limit": host.pids_limit}
    if block_io := _block_io(host):
        resources["blockIO"] = block_io
    return resources


def _block_io(host: HostConfig) -> dict[str, Any]:
    block_io: dict[str, Any] = {}
    if host.blkio_weight:
        block_io["weight"] = host.blkio_weight
    if host.blkio_weight_device:
        block_io["weightDevice"] = [
            {**_device_number(item.path), "weight": item.weight} for item in host.blkio_weight_device
        ]
    throttles = {
        "throttleReadBpsDevice": host.blkio_device_read_bps,
        "throttleWriteBpsDevice": host.blkio_device_write_bps,
        "throttleReadIOPSDevice": host.blkio_device_read_i_ops,
        "throttleWriteIOPSDevice": host.blkio_device_write_i_ops,
    }
    for key, devices in throttles.items():
        if devices:
            block_io[key] = [{**_device_number(item.path), "rate": item.rate} for item in devices]
    return block_io


def _device_number(path: str) -> dict[str, int]:
    try:
        number = os.stat(path).st_rdev
    except OSError as error:
        raise InvalidArgument(f"limit block device {path!r}: {os.strerror(error.errno or 0).lower()}") from error
    return {"major": os.major(number), "minor": os.minor(number)}
