"""Which limits this host's kernel can keep, and what becomes of those it can't: Docker discards them with a warning.

Source of the words: moby's `verifyPlatformContainerResources` and `sysinfo`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sampan.api.types import HostConfig
from sampan.linux import cgroups


@dataclass(frozen=True, slots=True)
class HostLimits:
    """What the mounted cgroup hierarchies have."""

    memory: bool = True
    swap: bool = True
    reservation: bool = True
    swappiness: bool = True
    oom_kill_disable: bool = True
    pids: bool = True
    cpu_shares: bool = True
    cpu_quota: bool = True
    cpu_realtime: bool = True
    cpuset: bool = True
    io_weight: bool = True
    io_read_bps: bool = True
    io_write_bps: bool = True
    io_read_iops: bool = True
    io_write_iops: bool = True


@cache
def host_limits() -> HostLimits:
    """Look at the host, once."""
    layout = cgroups.detect()
    return _of_v2(Path(layout.unified)) if layout.version == "v2" else _of_v1(layout)


def _of_v1(layout: cgroups.Layout) -> HostLimits:
    def has(controller: str, file: str) -> bool:
        return controller in layout.v1 and (Path(layout.v1[controller]) / file).exists()

    return HostLimits(
        memory=has("memory", "memory.limit_in_bytes"),
        swap=has("memory", "memory.memsw.limit_in_bytes"),
        reservation=has("memory", "memory.soft_limit_in_bytes"),
        swappiness=has("memory", "memory.swappiness"),
        oom_kill_disable=has("memory", "memory.oom_control"),
        pids="pids" in layout.v1,
        cpu_shares=has("cpu", "cpu.shares"),
        cpu_quota=has("cpu", "cpu.cfs_quota_us"),
        cpu_realtime=has("cpu", "cpu.rt_runtime_us"),
        cpuset="cpuset" in layout.v1,
        # BFQ shows its weights only below the root: there its counters say that it is there
        io_weight=has("blkio", "blkio.weight") or has("blkio", "blkio.bfq.io_service_bytes"),
        io_read_bps=has("blkio", "blkio.throttle.read_bps_device"),
        io_write_bps=has("blkio", "blkio.throttle.write_bps_device"),
        io_read_iops=has("blkio", "blkio.throttle.read_iops_device"),
        io_write_iops=has("blkio", "blkio.throttle.write_iops_device"),
    )


def _of_v2(root: Path) -> HostLimits:
    """Limits are files of cgroups below the root, which need not be there yet: the controllers say it, but for swap."""
    controllers = set((root / "cgroup.controllers").read_text().split())
    cpu, memory, io = "cpu" in controllers, "memory" in controllers, "io" in controllers
    accounted = next(root.glob("*/memory.max"), None)
    return HostLimits(
        memory=memory,
        swap=memory and (accounted is None or accounted.with_name("memory.swap.max").exists()),
        reservation=memory,
        swappiness=False,
        oom_kill_disable=False,
        pids="pids" in controllers,
        cpu_shares=cpu,
        cpu_quota=cpu,
        cpu_realtime=False,
        cpuset="cpuset" in controllers,
        io_weight=io,
        io_read_bps=io,
        io_write_bps=io,
        io_read_iops=io,
        io_write_iops=io,
    )


def missing(limits: HostLimits) -> list[str]:
    """Name what the host can't keep, as Docker's `info` warns of it."""
    names = {
        "memory limit": limits.memory, "swap limit": limits.swap, "cpu cfs quota": limits.cpu_quota,
        "cpu cfs period": limits.cpu_quota, "cpu shares": limits.cpu_shares, "cpuset": limits.cpuset,
    }  # fmt: skip
    return [name for name, there in names.items() if not there]


def discard_missing(host: HostConfig, limits: HostLimits) -> list[str]:
    """Take out of `host` the limits that the host can't keep; give a warning for each, in Docker's words."""
    warnings = []
    for changes, warning in _missing(host, limits):
        for name, value in changes.items():
            setattr(host, name, value)
        warnings.append(warning)
    return warnings


def _missing(host: HostConfig, limits: HostLimits) -> Iterator[tuple[dict[str, Any], str]]:
    unsupported = "Your kernel does not support"
    unmounted = "or the cgroup is not mounted."
    if host.memory > 0 and not limits.memory:
        yield {"memory": 0, "memory_swap": -1}, f"{unsupported} memory limit capabilities {unmounted} Limitation discarded."
    elif host.memory > 0 and host.memory_swap != -1 and not limits.swap:
        yield {"memory_swap": -1}, f"{unsupported} swap limit capabilities {unmounted} Memory limited without swap."
    if host.memory_swappiness not in (None, -1) and not limits.swappiness:
        yield (
            {"memory_swappiness": None},
            f"{unsupported} memory swappiness capabilities {unmounted} Memory swappiness discarded.",
        )
    if host.memory_reservation and not limits.reservation:
        yield {"memory_reservation": 0}, f"{unsupported} memory soft limit capabilities {unmounted} Limitation discarded."
    if host.oom_kill_disable and not limits.oom_kill_disable:
        yield {"oom_kill_disable": None}, f"{unsupported} OomKillDisable. OomKillDisable discarded."
    if host.pids_limit and host.pids_limit > 0 and not limits.pids:
        yield {"pids_limit": None}, f"{unsupported} PIDs limit capabilities {unmounted} PIDs limit discarded."
    if host.cpu_shares and not limits.cpu_shares:
        yield {"cpu_shares": 0}, f"{unsupported} CPU shares {unmounted} Shares discarded."
    if (host.cpu_period or host.cpu_quota) and not limits.cpu_quota:
        yield {"cpu_period": 0, "cpu_quota": 0}, f"{unsupported} CPU CFS scheduler. CPU period/quota discarded."
    if (host.cpuset_cpus or host.cpuset_mems) and not limits.cpuset:
        yield {"cpuset_cpus": "", "cpuset_mems": ""}, f"{unsupported} cpuset {unmounted} Cpuset discarded."
    if host.blkio_weight and not limits.io_weight:
        yield {"blkio_weight": 0}, f"{unsupported} Block I/O weight {unmounted} Weight discarded."
    if host.blkio_weight_device and not limits.io_weight:
        yield {"blkio_weight_device": []}, f"{unsupported} Block I/O weight_device {unmounted} Weight-device discarded."
    for name, there, what, short in (
        ("blkio_device_read_bps", limits.io_read_bps, "BPS Block I/O read", "BPS read"),
        ("blkio_device_write_bps", limits.io_write_bps, "BPS Block I/O write", "BPS write"),
        ("blkio_device_read_i_ops", limits.io_read_iops, "IOPS Block read", "IOPS read"),
        ("blkio_device_write_i_ops", limits.io_write_iops, "IOPS Block write", "IOPS write"),
    ):
        if getattr(host, name) and not there:
            yield {name: []}, f"{unsupported} {what} limit {unmounted} Block I/O {short} limit discarded."
