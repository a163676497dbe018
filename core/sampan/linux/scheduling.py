"""How the kernel schedules a process: policy, I/O priority, processors.

Sources: `sched_setattr(2)`, `ioprio_set(2)`, `sched(7)`, `include/uapi/linux/{sched,ioprio}.h`; OCI runtime spec 1.2,
`config.md#linux-process`, for the forms that are read here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sampan.linux.syscalls import syscall

_POLICIES: Final = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5, "SCHED_DEADLINE": 6,
}  # fmt: skip
_FLAGS: Final = {
    "SCHED_FLAG_RESET_ON_FORK": 1, "SCHED_FLAG_RECLAIM": 2, "SCHED_FLAG_DL_OVERRUN": 4, "SCHED_FLAG_KEEP_POLICY": 8,
    "SCHED_FLAG_KEEP_PARAMS": 16, "SCHED_FLAG_UTIL_CLAMP_MIN": 32, "SCHED_FLAG_UTIL_CLAMP_MAX": 64,
}  # fmt: skip
_CLASSES: Final = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_CLASS_SHIFT: Final = 13
_WHO_PROCESS: Final = 1
_LAST_CPU: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Scheduler:
    """A scheduling policy with its parameters, as `struct sched_attr` has them; times in nanoseconds."""

    policy: int
    flags: int = 0
    nice: int = 0
    priority: int = 0
    runtime: int = 0
    deadline: int = 0
    period: int = 0

    @classmethod
    def of_spec(cls, scheduler: Mapping[str, Any]) -> Scheduler:
        """Read an OCI `scheduler` object. Raises `ValueError` for what is unknown or does not go together."""
        name = scheduler.get("policy")
        if name not in _POLICIES:
            raise ValueError(f"scheduler: unknown policy {name!r}")
        flags = 0
        for flag in scheduler.get("flags") or ():
            if flag not in _FLAGS:
                raise ValueError(f"scheduler: unknown flag {flag!r}")
            flags |= _FLAGS[flag]
        values = [scheduler.get(key) or 0 for key in ("nice", "priority", "runtime", "deadline", "period")]
        nice, priority, *times = values
        if not -20 <= nice <= 19:
            raise ValueError(f"scheduler: nice {nice} is not within -20 to 19")
        if priority and name not in ("SCHED_FIFO", "SCHED_RR"):
            raise ValueError(f"scheduler: {name} has no priority; only SCHED_FIFO and SCHED_RR do")
        if any(times) and name != "SCHED_DEADLINE":
            raise ValueError(f"scheduler: {name} has no runtime, deadline or period; only SCHED_DEADLINE does")
        return cls(_POLICIES[name], flags, *values)

    def apply(self) -> None:
        """Set it for the calling thread and its later children. Raises `OSError`."""
        times = self.runtime, self.deadline, self.period
        attr = struct.pack("=IIQiI3QII", 56, self.policy, self.flags, self.nice, self.priority, *times, 0, 0)
        syscall("sched_setattr", 0, attr, 0)


@dataclass(frozen=True, slots=True)
class IoPriority:
    """Class and level of disk access, by the kernel's numbers; 0 is the highest level."""

    kind: int
    level: int

    @classmethod
    def of_spec(cls, priority: Mapping[str, Any]) -> IoPriority:
        """Read an OCI `ioPriority` object. Raises `ValueError`."""
        kind, level = priority.get("class"), priority.get("priority") or 0
        if kind not in _CLASSES:
            raise ValueError(f"ioPriority: unknown class {kind!r}")
        if not 0 <= level <= 7:
            raise ValueError(f"ioPriority: priority {level} is not within 0 to 7")
        return cls(_CLASSES[kind], level)

    def apply(self) -> None:
        """Set it for the calling process and its later children. Raises `OSError`."""
        syscall("ioprio_set", _WHO_PROCESS, 0, self.kind << _CLASS_SHIFT | self.level)


@dataclass(frozen=True, slots=True)
class Scheduling:
    """What an OCI `process` says of it. Processors are those of a process that joins a container: before it is in the
    container's cgroup and after; empty where nothing is said.
    """

    scheduler: Scheduler | None
    io_priority: IoPriority | None
    initial_cpus: frozenset[int]
    final_cpus: frozenset[int]

    @classmethod
    def of_process(cls, process: Mapping[str, Any]) -> Scheduling | None:
        """Read it; None if nothing is said. Raises `ValueError`."""
        scheduler, io_priority, cpus = (process.get(key) for key in ("scheduler", "ioPriority", "execCPUAffinity"))
        if not (scheduler or io_priority or cpus):
            return None
        initial, final = (parse_cpus(cpus[key]) if cpus and cpus.get(key) else frozenset() for key in ("initial", "final"))
        return cls(
            Scheduler.of_spec(scheduler) if scheduler else None,
            IoPriority.of_spec(io_priority) if io_priority else None,
            initial,
            final,
        )

    def apply(self) -> None:
        """Set policy and I/O priority of the calling thread. Needs CAP_SYS_NICE for some. Raises `OSError`."""
        if self.scheduler:
            self.scheduler.apply()
        if self.io_priority:
            self.io_priority.apply()


def pin(cpus: frozenset[int]) -> None:
    """Let the calling thread run on these processors only; on none named, where it may already. Raises `OSError`."""
    if cpus:
        os.sched_setaffinity(0, cpus)


def parse_cpus(text: str) -> frozenset[int]:
    """Read a list of processors as the kernel writes it (`0-3,7`). Raises `ValueError`."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{text!r} is not a list of processors such as 0-3,7")
        numbers = range(int(first), int(last or first) + 1)
        if not numbers or numbers[-1] >= _LAST_CPU:
            raise ValueError(f"{text!r} is not a list of processors such as 0-3,7")
        cpus.update(numbers)
    return frozenset(cpus)
