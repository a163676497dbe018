"""Control groups of one container: the same path in every hierarchy of the host, be they v1, hybrid or v2.

Hybrid means v1 controllers beside a v2 tree without them: limits go to v1, and the v2 tree, of which the
processes are members as well, gives `cgroup.kill`, `cgroup.freeze` and birth by `CLONE_INTO_CGROUP`. Errors
are `OSError` that name file and value. Nothing is kept in memory but the path, so a later process goes on
where an earlier one died.

Sources: `cgroups(7)`, the kernel's `admin-guide/cgroup-v1/` and `admin-guide/cgroup-v2.rst`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Collection, Mapping
from typing import Any, Final

from sampan.linux.cgroup_devices import DeviceRules, attach_v2, write_v1
from sampan.linux.cgroup_files import read, write
from sampan.linux.cgroup_layout import Layout, detect
from sampan.linux.cgroup_limits import Step, Write, limits
from sampan.linux.cgroup_oom import count_oom_kills
from sampan.linux.cgroup_stats import Stats, read_stats
from sampan.linux.cgroup_trees import members, remove_tree, wait_gone, walk
from sampan.linux.mounts import Mount, open_mount

__all__ = ["Cgroup", "Layout", "Stats", "detect", "favor_moves"]

_UNIFIED_CONTROLLERS: Final = frozenset({"cpu", "cpuset", "memory", "pids", "io", "hugetlb"})
_REMOVE_SECONDS: Final = 10.0


def favor_moves() -> int:
    """Have the kernel move processes between cgroups without an RCU grace period (5 to 12 ms), as long as the
    descriptor that this gives is open; -1 where moves are not needed (pure v2: processes are born in place).

    The kernel has that as the option `favordynmods` of any one hierarchy, and makes forks a little dearer for
    it. So this is an empty hierarchy of our own, mounted nowhere; the host's stay as they are, and it ends
    with its last descriptor.
    """
    if detect().version == "v2":
        return -1
    return open_mount(Mount("cgroup", "sampan", ("none", "name=sampan", "favordynmods")))


class Cgroup:
    """The cgroup `path` (absolute, from the mount points) in all hierarchies of `layout`."""

    def __init__(self, path: str, layout: Layout | None = None) -> None:
        """Only names it. Raises `ValueError` for a path that isn't plain and absolute."""
        if not path.startswith("/") or path == "/" or ".." in path.split("/") or "\0" in path:
            raise ValueError(f"cgroup path {path!r} is not absolute and plain")
        self.path = "/" + path.strip("/")
        self.layout = layout or detect()

    def directory(self, controller: str = "") -> str:
        """Where the v1 `controller` is, or the v2 cgroup when that is empty or the host has no such v1
        hierarchy."""
        return self.layout.v1.get(controller, self.layout.unified) + self.path

    def exists(self) -> bool:
        """Whether it is there in any hierarchy."""
        return any(os.path.isdir(root + self.path) for root in self.layout.roots)  # noqa: PTH112

    def create(self) -> None:
        """Make it in every hierarchy. One that is left over is taken if it is empty and runs; else that is EBUSY."""
        for root in self.layout.roots:
            directory = root + self.path
            try:
                os.mkdir(directory, 0o755)  # noqa: PTH102
            except FileExistsError:
                self._check_left_over(directory)
            except FileNotFoundError:
                self._make_parents(root)
                os.mkdir(directory, 0o755)  # noqa: PTH102
        if "cpuset" in self.layout.v1 and not read(self.directory("cpuset") + "/cpuset.cpus").strip():
            self._inherit_cpuset(self.layout.v1["cpuset"])
        if self.layout.version == "v2":
            with contextlib.suppress(OSError):  # what cannot be had is told once something needs it
                self._enable(_UNIFIED_CONTROLLERS & self.layout.controllers)

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

    def prepare(self, controller: str) -> int:
        """Have `controller` in it, and say which version's files that has: 1, 2, or 0 for none on this host.

        Raises `OSError` if it cannot be had in this place of the v2 tree.
        """
        version = self.layout.version_of(controller)
        if version == 2 and controller not in read(self.directory() + "/cgroup.controllers").split():
            self._enable({controller})
        return version

    def has_file(self, controller: str, file: str) -> bool:
        """Whether it has a file of `controller`."""
        return os.access(self._file(controller, file), os.F_OK)

    def read(self, controller: str, file: str) -> str:
        """Read a file of `controller`. Raises `OSError`."""
        return read(self._file(controller, file))

    def add(self, pid: int, *, unified: bool = True) -> None:
        """Move a process in. The first move in a while waits for the kernel (an RCU grace period, 5 to 12
        ms); `unified=False` leaves the v2 tree out, for a process that was born there.
        """
        text = str(pid)
        for root in self.layout.roots:
            if unified or root != self.layout.unified:
                write(f"{root}{self.path}/cgroup.procs", text)

    def open_unified(self) -> int:
        """Give a descriptor for `CLONE_INTO_CGROUP`, or -1 where there is no v2 tree."""
        if not self.layout.unified:
            return -1
        return os.open(self.directory(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def procs(self) -> tuple[int, ...]:
        """Give the processes in it and below it, in this pid namespace; none if it is gone."""
        return tuple(members(self._counted))

    def has(self, pid: int) -> bool:
        """Whether `pid` is in it or below it. Looks first where it mostly is: `procs` walks the whole tree."""
        with contextlib.suppress(OSError):  # gone, or threaded by the container
            if str(pid) in read(self._counted + "/cgroup.procs").split():
                return True
        return pid in self.procs()

    def kill(self) -> None:
        """Send SIGKILL to everything in it, also what is being born meanwhile. No error if it is gone."""
        if self.layout.unified:
            with contextlib.suppress(FileNotFoundError):
                write(self.directory() + "/cgroup.kill", "1")
                return
        while pids := self.procs():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._thaw_v1()
            if not wait_gone(pids, _REMOVE_SECONDS):
                return

    def freeze(self, frozen: bool = True) -> None:  # noqa: FBT001, FBT002
        """Stop every process where it is, or let them go on; returns when that has happened."""
        if self.layout.unified:
            write(self.directory() + "/cgroup.freeze", "1" if frozen else "0")
            try:
                self._wait_event("frozen", "1" if frozen else "0")
            except TimeoutError:
                write(self.directory() + "/cgroup.freeze", "0")
                raise
            return
        state = "FROZEN" if frozen else "THAWED"
        name = self.directory("freezer") + "/freezer.state"
        deadline = time.monotonic() + _REMOVE_SECONDS
        write(name, state)
        while read(name).strip() != state:  # v1 has no event for it, and wants the write again
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, f"{name} does not become {state}", name)
            time.sleep(0.001)
            write(name, state)

    def is_frozen(self) -> bool:
        """Whether `freeze` has stopped it. False if it is gone."""
        try:
            if self.layout.unified:
                return "frozen 1" in read(self.directory() + "/cgroup.events")
            return read(self.directory("freezer") + "/freezer.state").strip() == "FROZEN"
        except FileNotFoundError:
            return False

    def oom_kill_count(self) -> int:
        """Give how many of its processes the kernel killed for want of memory."""
        return count_oom_kills(self)

    def stats(self) -> Stats:
        """Read what it uses. Raises `OSError`: `ENOENT` when it is gone."""
        return read_stats(self.layout, self.path)

    def remove(self) -> None:
        """Remove it and what is below it, after its processes are gone; waits for those that are being
        killed.

        No error if it is not there. Raises `OSError` EBUSY when processes stay for 10 seconds.
        """
        deadline = time.monotonic() + _REMOVE_SECONDS
        for root in reversed(self.layout.roots):
            if not self._is_removed_at_once(root):
                remove_tree(root + self.path, deadline)

    def remove_if_empty(self) -> bool:
        """Remove it where that needs neither a kill nor a wait nor a look into it, as mostly after the last
        process's end. False, with some of it still there, if there are processes in it or cgroups below it.
        """
        return all(self._is_removed_at_once(root) for root in reversed(self.layout.roots))

    def _is_removed_at_once(self, root: str) -> bool:
        try:
            os.rmdir(root + self.path)  # noqa: PTH106
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    @property
    def _counted(self) -> str:
        """Its directory in the hierarchy that tells who is in it."""
        return (self.layout.unified or next(iter(self.layout.v1.values()))) + self.path

    def _file(self, controller: str, file: str) -> str:
        return f"{self.layout.root_of(controller)}{self.path}/{file}"

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
        except FileNotFoundError as error:
            raise OSError(errno.EOPNOTSUPP, f"limit {each.file}: this kernel has no such file", name) from error
        except OSError as error:
            if error.errno == errno.EBUSY and each.controller == "memory":
                used = read(self.directory("memory") + "/memory.usage_in_bytes").strip()
                text = f"{error.strerror}: {used} bytes are in use, and cannot be taken back"
                raise OSError(errno.EBUSY, text, name) from error
            raise

    def _apply_devices(self, rules: DeviceRules) -> None:
        if "devices" in self.layout.v1:
            write_v1(self.directory("devices"), rules)
        elif self.layout.unified:
            attach_v2(self.directory(), rules)
        else:
            raise OSError(errno.EOPNOTSUPP, "devices: this host has no cgroup controller devices")

    def _check_usage(self, memory: Mapping[str, Any]) -> None:
        """Refuse a limit below what is in use, as v1 does by itself. The kernel would kill for it on v2."""
        if self.layout.version_of("memory") != 2:
            return
        used = int(self.read("memory", "memory.current"))
        for key in ("limit", "swap"):
            if 0 < (memory.get(key) or 0) <= used:
                raise OSError(errno.EBUSY, f"memory.{key} {memory[key]} is below what is in use, {used} bytes")

    def _check_left_over(self, directory: str) -> None:
        if any(members(directory)):
            raise OSError(errno.EBUSY, f"cgroup {directory} has processes", directory)
        if directory.startswith(self.layout.unified) and self.is_frozen():
            raise OSError(errno.EBUSY, f"cgroup {directory} is frozen", directory)

    def _make_parents(self, root: str) -> None:
        """Make what is above it. New v1 cpusets are to be as their parent, in the kernel and not by us."""
        parent = os.path.dirname(root + self.path)  # noqa: PTH120
        os.makedirs(parent, 0o755, exist_ok=True)  # noqa: PTH103
        if root == self.layout.v1.get("cpuset"):
            self._inherit_cpuset(root, parent)
            write(parent + "/cgroup.clone_children", "1")

    def _thaw_v1(self) -> None:
        """Let what is frozen die. A container may have frozen cgroups of its own below."""
        if "freezer" in self.layout.v1:
            for fd in walk(self.directory("freezer")):
                with contextlib.suppress(OSError):
                    write(f"/proc/self/fd/{fd}/freezer.state", "THAWED")

    def _inherit_cpuset(self, root: str, directory: str = "") -> None:
        """A new v1 cpuset is empty, and takes no process until it has cpus and memory nodes."""
        last = directory or root + self.path
        directories = [root]
        for part in last[len(root) + 1 :].split("/"):
            directories.append(f"{directories[-1]}/{part}")
        for name in ("cpuset.cpus", "cpuset.mems"):
            # Upwards to the first that has some: most often the parent itself.
            empty: list[str] = []
            for each in reversed(directories):
                if value := read(f"{each}/{name}").strip():
                    break
                empty.append(each)
            for each in reversed(empty):
                write(f"{each}/{name}", value)

    def _enable(self, controllers: Collection[str]) -> None:
        """Have v2 controllers in it: each cgroup above must have them for those below. Raises `OSError` with the reason."""
        directory = self.layout.unified
        parents = [directory]
        for part in self.path[1:].split("/")[:-1]:
            parents.append(f"{parents[-1]}/{part}")
        lacking: list[tuple[str, list[str]]] = []
        for parent in reversed(parents):  # most often the nearest has them all
            enabled = read(parent + "/cgroup.subtree_control").split()
            missing = [each for each in controllers if each not in enabled]
            if not missing:
                break
            lacking.append((parent, missing))
        for parent, missing in reversed(lacking):
            for controller in missing:
                _enable_below(parent, controller)

    def _wait_event(self, key: str, value: str) -> None:
        name = self.directory() + "/cgroup.events"
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLPRI)
            deadline = time.monotonic() + _REMOVE_SECONDS
            while f"{key} {value}" not in os.pread(fd, 4096, 0).decode():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise OSError(errno.ETIMEDOUT, f"{name}: {key} does not become {value}", name)
                poll.poll(left * 1000)
        finally:
            os.close(fd)


def _enable_below(directory: str, controller: str) -> None:
    try:
        write(directory + "/cgroup.subtree_control", "+" + controller)
    except OSError as error:
        why = {
            errno.ENOENT: "it is not given to this cgroup",
            errno.EBUSY: "that has processes itself; move them into a cgroup below it",
            errno.EOPNOTSUPP: "that is threaded",
        }.get(error.errno or 0, os.strerror(error.errno or 0))
        code = errno.EOPNOTSUPP if error.errno == errno.ENOENT else error.errno
        raise OSError(
            code, f"cgroup controller {controller} is not to be had below {directory}: {why}", directory
        ) from error
