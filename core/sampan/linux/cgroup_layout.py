"""Where the host has its cgroup hierarchies. Sources: `cgroups(7)`, the kernel's `admin-guide/cgroup-v2.rst`."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from sampan.linux.cgroup_files import read

_V1_CONTROLLERS: Final = frozenset(
    {"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "net_cls", "net_prio",
     "perf_event", "hugetlb", "rdma", "misc"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """How the host mounts its cgroups. `v1` maps a controller (or `name=…`) to the mount point of its
    hierarchy."""

    v1: Mapping[str, str]
    unified: str = ""

    @property
    def version(self) -> str:
        """`v1`, `hybrid` or `v2`."""
        if not self.unified:
            return "v1"
        return "hybrid" if "memory" in self.v1 or "cpu" in self.v1 else "v2"

    @property
    def roots(self) -> tuple[str, ...]:
        """Every hierarchy's mount point, once."""
        unified = (self.unified,) if self.unified else ()
        return tuple(dict.fromkeys([*self.v1.values(), *unified]))


@cache
def detect() -> Layout:
    """Find the hierarchies that this process sees mounted. Raises `OSError` if there is none."""
    v1: dict[str, str] = {}
    unified = ""
    for line in read("/proc/self/mounts").splitlines():
        _, target, fstype, options, *_ = line.split(" ")
        if fstype == "cgroup2":
            unified = unified or target
        elif fstype == "cgroup":
            for option in options.split(","):
                if option.startswith("name=") or option in _V1_CONTROLLERS:
                    v1.setdefault(option, target)
    if not v1 and not unified:
        raise OSError(errno.ENOENT, "no cgroup hierarchy is mounted", "/sys/fs/cgroup")
    return Layout(v1, unified)
