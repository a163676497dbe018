"""Where the host has its cgroup hierarchies. Sources: `cgroups(7)`, the kernel's `admin-guide/cgroup-v2.rst`."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from sampan.linux.cgroup_files import read, text

_V1_CONTROLLERS: Final = frozenset(
    {"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "net_cls", "net_prio",
     "perf_event", "hugetlb", "rdma", "misc"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """How the host mounts its cgroups. `v1` maps a controller (or `name=…`) to the mount point of its
    hierarchy; `controllers` are those of the v2 tree."""

    v1: Mapping[str, str]
    unified: str = ""
    controllers: frozenset[str] = frozenset()

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

    def version_of(self, controller: str) -> int:
        """Say which version's files `controller` (as v2 names it) has here: 1, 2, or 0 for none at all."""
        if _V1_NAMES.get(controller, controller) in self.v1:
            return 1
        return 2 if controller in self.controllers else 0

    def root_of(self, controller: str) -> str:
        """Give the mount point of the hierarchy that has `controller`, as v2 names it: the v2 tree's if none has."""
        return self.v1.get(_V1_NAMES.get(controller, controller), self.unified)


_V1_NAMES: Final = {"io": "blkio"}

OWN_HIERARCHY: Final = "name=sampan"
"""The hierarchy of `sampan.linux.cgroups.favor_moves`: no process is ever moved in it."""


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
                if option != OWN_HIERARCHY and (option.startswith("name=") or option in _V1_CONTROLLERS):
                    v1.setdefault(option, target)
    if not v1 and not unified:
        raise OSError(errno.ENOENT, "no cgroup hierarchy is mounted", "/sys/fs/cgroup")
    controllers = text(unified + "/cgroup.controllers").split() if unified else ()
    return Layout(v1, unified, frozenset(controllers))
