"""Changing a container's limits and restart policy while it exists (`docker update`).

The kernel is asked first and the record follows: a client hears of an update once both have it. After a crash in between the
container has limits that its record does not tell of, until its next start.
"""

from __future__ import annotations

from typing import Any

from sampan.api.errors import Conflict, SampanError
from sampan.api.types import HostConfig
from sampan.engine import restart_policy
from sampan.engine.container import Container
from sampan.engine.containers import Containers, attributes
from sampan.engine.events import EventBus
from sampan.engine.records import Status
from sampan.engine.resources import check_limits, linux_resources

UPDATED = (
    "blkio_weight", "cpu_shares", "nano_cpus", "cpu_period", "cpu_quota", "cpu_realtime_period", "cpu_realtime_runtime",
    "cpuset_cpus", "cpuset_mems", "memory", "memory_reservation", "memory_swap",
)  # fmt: skip
"""The limits that an update changes where it names them; Docker takes 0 and "" for 'as it was'."""

FIXED = {
    "cgroup_parent": "CgroupParent", "devices": "Devices", "device_cgroup_rules": "DeviceCgroupRules",
    "device_requests": "DeviceRequests", "ulimits": "Ulimits", "memory_swappiness": "MemorySwappiness",
    "oom_kill_disable": "OomKillDisable", "blkio_weight_device": "BlkioWeightDevice",
    "blkio_device_read_bps": "BlkioDeviceReadBps", "blkio_device_write_bps": "BlkioDeviceWriteBps",
    "blkio_device_read_i_ops": "BlkioDeviceReadIOps", "blkio_device_write_i_ops": "BlkioDeviceWriteIOps",
}  # fmt: skip
"""What the request's form has beside those, and no update changes in this version of the API."""


class Updates:
    """Carries out updates, each under its container's lock."""

    def __init__(self, containers: Containers, events: EventBus) -> None:
        self._containers = containers
        self._events = events

    async def update(self, container: Container, asked: HostConfig) -> list[str]:
        """Give a container what `asked` names, and the warnings about it; all or nothing in the record.

        Raises `Conflict` for what contradicts the container as it is, `InvalidArgument`, and the runtime's error.
        """
        async with container.lock:
            if container.status in (Status.REMOVING, Status.DEAD):
                raise _refused(container, Conflict('container is marked for removal and cannot be "update"'))
            before = container.record.host
            restart_policy.check(asked.restart_policy)
            try:
                _check_conflicts(before, asked)
            except Conflict as error:
                raise _refused(container, error) from error
            wanted = merge(before, asked)
            warnings = check_limits(wanted) + _discarded(asked)
            await self._apply(container, changes(before, wanted))
            container.record.host = wanted
            try:
                await self._containers.write(container)
            except BaseException:
                container.record.host = before
                raise
        self._events.emit("container", "update", container.id, attributes(container.record))
        return warnings

    @staticmethod
    async def _apply(container: Container, resources: dict[str, Any]) -> None:
        if container.shim is None or not container.is_running or not resources:
            return
        try:
            await container.shim.update(resources)
        except SampanError as error:
            raise _refused(container, error) from error


def merge(before: HostConfig, asked: HostConfig) -> HostConfig:
    """Give a container's settings with what an update names in place of what was."""
    named: dict[str, Any] = {name: value for name in UPDATED if (value := getattr(asked, name))}
    if asked.memory and not asked.memory_swap:
        named["memory_swap"] = _swap(before)
    if asked.pids_limit is not None:
        named["pids_limit"] = max(asked.pids_limit, 0)  # 0 and below are 'no limit'
    if asked.restart_policy.name:
        named["restart_policy"] = asked.restart_policy
    return before.model_copy(update=named)


def changes(before: HostConfig, after: HostConfig) -> dict[str, Any]:
    """Give the parts of the OCI `linux.resources` object that differ, each of them whole: some of its values depend on others."""
    old, new = linux_resources(before), linux_resources(after)
    changed = {part: values for part, values in new.items() if old.get(part) != values}
    if "pids" in old and "pids" not in new:
        changed["pids"] = {"limit": -1}
    return changed


def _swap(host: HostConfig) -> int:
    """Give the limit of memory and swap together that a container has: twice its memory unless it was set."""
    return host.memory_swap or host.memory * 2


def _check_conflicts(before: HostConfig, asked: HostConfig) -> None:
    """Refuse what contradicts a setting that stays, in Docker's words."""
    for name, value in (("CPU Period", before.cpu_period), ("CPU Quota", before.cpu_quota)):
        if asked.nano_cpus > 0 and value > 0:
            raise Conflict(f"Conflicting options: Nano CPUs cannot be updated as {name} has already been set")
    for name, value in (("CPU Period", asked.cpu_period), ("CPU Quota", asked.cpu_quota)):
        if value > 0 and before.nano_cpus > 0:
            raise Conflict(f"Conflicting options: {name} cannot be updated as NanoCPUs has already been set")
    if asked.memory and not asked.memory_swap and asked.memory > _swap(before):  # which may be -1
        raise Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
    if before.auto_remove and restart_policy.restarts(asked.restart_policy):
        raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")


def _discarded(asked: HostConfig) -> list[str]:
    return [
        f"{shown} cannot be updated: it stays as it was"
        for name, shown in FIXED.items()
        if getattr(asked, name) not in (None, -1, "", [])
    ]


def _refused(container: Container, error: SampanError) -> SampanError:
    return type(error)(f"Cannot update container {container.id}: {error.message}", remedy=error.remedy)
