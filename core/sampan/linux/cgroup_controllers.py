"""The controllers of one cgroup: having them in the v2 tree, and writing an OCI `linux.resources` object to their files.

Sources: OCI runtime spec `config-linux.md#control-groups`; the kernel's `admin-guide/cgroup-v2.rst` ("Controlling controllers",
"No internal process constraint").
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

from sampan.linux.cgroup_devices import DeviceRules, attach_v2, write_v1
from sampan.linux.cgroup_files import read, text, write
from sampan.linux.cgroup_layout import Layout
from sampan.linux.cgroup_limits import Step, Write, limits


class Controllers:
    """Those of the cgroup `path`, for one use: what is enabled is read once."""

    def __init__(self, layout: Layout, path: str) -> None:
        self._layout = layout
        self._path = path

    def apply(self, resources: Mapping[str, Any]) -> None:
        """Set limits from an OCI `linux.resources` object; what it doesn't mention stays.

        Raises `ValueError`, and `OSError`: EOPNOTSUPP for what this host cannot do. Then what was written before holds.
        """
        if (devices := resources.get("devices")) is not None:
            self._apply_devices(DeviceRules.of_spec(devices))
        memory = resources.get("memory") or {}
        if memory.get("checkBeforeUpdate"):
            self._check_usage(memory)
        for step in limits(resources, self):
            self._write(step)

    def enable(self, controllers: Collection[str]) -> None:
        """Have v2 controllers in it: each cgroup above must have them for those below. Raises `OSError` with the reason."""
        directory = self._layout.unified
        parents = [directory]
        for part in self._path[1:].split("/")[:-1]:
            parents.append(f"{parents[-1]}/{part}")
        lacking: list[tuple[str, list[str]]] = []
        for parent in reversed(parents):  # most often the nearest has them all
            enabled = read(parent + "/cgroup.subtree_control").split()
            missing = [each for each in controllers if each not in enabled]
            if not missing:
                break
            lacking.append((parent, missing))
        for parent, missing in reversed(lacking):
            _check_domain(parent, missing[0])
            for controller in missing:
                _enable_below(parent, controller)

    def prepare(self, controller: str) -> int:
        """Have `controller` in it, and say which version's files that has: 1, 2, or 0 for none on this host.

        Raises `OSError` if it cannot be had in this place of the v2 tree.
        """
        version = self._layout.version_of(controller)
        if version == 2 and controller not in self._enabled:
            self.enable({controller})
        return version

    def has_file(self, controller: str, file: str) -> bool:
        """Whether it has a file of `controller`."""
        return os.access(self._file(controller, file), os.F_OK)

    def read(self, controller: str, file: str) -> str:
        """Read a file of `controller`. Raises `OSError`."""
        return read(self._file(controller, file))

    @cached_property
    def _enabled(self) -> list[str]:
        return read(f"{self._layout.unified}{self._path}/cgroup.controllers").split()

    def _file(self, controller: str, file: str) -> str:
        return f"{self._layout.root_of(controller)}{self._path}/{file}"

    def _write(self, step: Step) -> None:
        """Write what must fit each other: what the kernel refuses as things are is tried again after the others."""
        pending, first = list(step), None
        while pending:
            refused = []
            for each in pending:
                try:
                    self._write_one(each)
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    first = first or error
                    refused.append(each)
            if first and len(refused) == len(pending):
                raise first
            pending, first = refused, None

    def _write_one(self, each: Write) -> None:
        name = self._file(each.controller, each.file)
        try:
            write(name, each.value)
        except OSError as error:
            if error.errno == errno.ENOENT and os.path.isdir(os.path.dirname(name)):  # noqa: PTH112, PTH120
                raise OSError(errno.EOPNOTSUPP, f"{each.file}: this kernel has no such file", name) from error
            if error.errno == errno.EINVAL and each.file == "cpu.rt_runtime_us":
                text = f"no such real-time budget is left: the cgroups above {self._path} must have at least as much"
                raise OSError(errno.EINVAL, text, name) from error
            if error.errno == errno.EBUSY and each.controller == "memory":
                used = self.read("memory", "memory.usage_in_bytes").strip()
                text = f"{error.strerror}: {used} bytes are in use, and cannot be taken back"
                raise OSError(errno.EBUSY, text, name) from error
            raise

    def _apply_devices(self, rules: DeviceRules) -> None:
        if "devices" in self._layout.v1:
            write_v1(self._layout.v1["devices"] + self._path, rules)
        elif self._layout.unified:
            attach_v2(self._layout.unified + self._path, rules)
        else:
            raise OSError(errno.EOPNOTSUPP, "devices: this host has no cgroup controller devices")

    def _check_usage(self, memory: Mapping[str, Any]) -> None:
        """Refuse a limit below what is in use, as v1 does by itself. The kernel would kill for it on v2."""
        if self.prepare("memory") != 2:
            return
        used = int(self.read("memory", "memory.current"))
        for key in ("limit", "swap"):
            if 0 < (memory.get(key) or 0) <= used:
                raise OSError(errno.EBUSY, f"memory.{key} {memory[key]} is below what is in use, {used} bytes")


def _check_domain(directory: str, controller: str) -> None:
    """Refuse what the kernel does not: cpu, cpuset and pids given to what is below a cgroup with processes make that one a domain
    of threads, and what is below it takes no process any more."""
    kind = text(directory + "/cgroup.type").strip()  # the root has none, and may have processes
    if kind not in ("", "domain"):
        raise _not_below(directory, controller, errno.EOPNOTSUPP)
    if kind and read(directory + "/cgroup.procs"):
        raise _not_below(directory, controller, errno.EBUSY)


def _enable_below(directory: str, controller: str) -> None:
    try:
        write(directory + "/cgroup.subtree_control", "+" + controller)
    except OSError as error:
        raise _not_below(directory, controller, error.errno or 0) from error


def _not_below(directory: str, controller: str, code: int) -> OSError:
    why = {
        errno.ENOENT: "it is not given to this cgroup",
        errno.EBUSY: "that has processes itself; move them into a cgroup below it",
        errno.EOPNOTSUPP: "that is threaded",
    }.get(code, os.strerror(code))
    told = f"cgroup controller {controller} is not to be had below {directory}: {why}"
    return OSError(errno.EOPNOTSUPP if code == errno.ENOENT else code, told, directory)
