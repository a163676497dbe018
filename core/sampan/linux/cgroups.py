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
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sampan.linux.cgroup_devices import DeviceRules, attach_v2, write_v1
from sampan.linux.cgroup_files import read, write
from sampan.linux.cgroup_layout import Layout, detect
from sampan.linux.cgroup_limits import Writes, limits_v1, limits_v2
from sampan.linux.cgroup_oom import count_oom_kills
from sampan.linux.cgroup_stats import Stats, read_stats
from sampan.linux.mounts import Mount, open_mount

__all__ = ["Cgroup", "Layout", "Stats", "detect", "favor_moves"]

_UNIFIED_CONTROLLERS: Final = ("cpu", "cpuset", "memory", "pids", "io", "hugetlb")
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
        """Make it in every hierarchy. One that is left over and empty is taken; one with processes is
        EBUSY."""
        for root in self.layout.roots:
            directory = root + self.path
            try:
                os.mkdir(directory, 0o755)  # noqa: PTH102
            except FileExistsError:
                if read(directory + "/cgroup.procs"):
                    raise OSError(errno.EBUSY, f"cgroup {directory} has processes", directory) from None
            except FileNotFoundError:
                os.makedirs(directory, 0o755)  # noqa: PTH103
        if "cpuset" in self.layout.v1:
            self._inherit_cpuset(self.layout.v1["cpuset"])
        if self.layout.version == "v2":
            self._enable_controllers()

    def apply(self, resources: Mapping[str, Any]) -> None:
        """Set limits from an OCI `linux.resources` object; what it doesn't mention stays. Raises `OSError`,
        `ValueError`."""
        v2 = self.layout.version == "v2"
        if devices := resources.get("devices"):
            rules = DeviceRules.of_spec(devices)
            if v2:
                attach_v2(self.directory(), rules)
            elif "devices" in self.layout.v1:
                write_v1(self.directory("devices"), devices)
        if v2:
            writes: Writes = limits_v2(resources)
        else:
            writes = limits_v1(resources, self._limited_memory() if resources.get("memory") else 0)
        for controller, name, value in writes:
            write(f"{self.directory('' if v2 else controller)}/{name}", value)

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
        root = self.layout.unified or next(iter(self.layout.v1.values()))
        found: list[int] = []
        for directory in _walk(root + self.path):
            with contextlib.suppress(FileNotFoundError):
                found.extend(map(int, read(directory + "/cgroup.procs").split()))
        return tuple(found)

    def has(self, pid: int) -> bool:
        """Whether `pid` is in it or below it. Looks first where it mostly is: `procs` walks the whole tree."""
        root = self.layout.unified or next(iter(self.layout.v1.values()))
        try:
            own = read(f"{root}{self.path}/cgroup.procs").split()
        except FileNotFoundError:
            return False
        return str(pid) in own or pid in self.procs()

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
            if not _wait_gone(pids, _REMOVE_SECONDS):
                return

    def freeze(self, frozen: bool = True) -> None:  # noqa: FBT001, FBT002
        """Stop every process where it is, or let them go on; returns when that has happened."""
        if self.layout.unified:
            write(self.directory() + "/cgroup.freeze", "1" if frozen else "0")
            self._wait_event("frozen", "1" if frozen else "0")
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

    def walk(self, controller: str = "") -> Iterator[str]:
        """Give its directory for `controller` and all below, parents first; nothing if it isn't there."""
        return _walk(self.directory(controller))

    def remove(self) -> None:
        """Remove it and what is below it, after its processes are gone; waits for those that are being
        killed.

        No error if it is not there. Raises `OSError` EBUSY when processes stay for 10 seconds.
        """
        deadline = time.monotonic() + _REMOVE_SECONDS
        for root in reversed(self.layout.roots):
            if not self._is_removed_at_once(root):
                for directory in reversed(list(_walk(root + self.path))):
                    self._remove_directory(directory, deadline)

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

    def _remove_directory(self, directory: str, deadline: float) -> None:
        while True:
            try:
                os.rmdir(directory)  # noqa: PTH106
                return
            except FileNotFoundError:
                return
            except OSError as error:
                left = deadline - time.monotonic()
                if error.errno != errno.EBUSY or left <= 0:
                    raise OSError(
                        error.errno, f"remove cgroup {directory}: {os.strerror(error.errno or 0)}", directory
                    ) from error
                pids = tuple(map(int, read(directory + "/cgroup.procs").split()))
                if not _wait_gone(pids, left) or not pids:
                    time.sleep(0.001)  # a dying process leaves the cgroup a moment after its end is announced

    def _inherit_cpuset(self, root: str) -> None:
        """A new v1 cpuset is empty, and takes no process until it has cpus and memory nodes."""
        directories = [root]
        for part in self.path[1:].split("/"):
            directories.append(f"{directories[-1]}/{part}")
        for name in ("cpuset.cpus", "cpuset.mems"):
            # Upwards to the first that has some: most often the parent itself.
            empty, value = [directories[-1]], ""
            for directory in reversed(directories[:-1]):
                if value := read(f"{directory}/{name}").strip():
                    break
                empty.append(directory)
            for directory in reversed(empty):
                write(f"{directory}/{name}", value)

    def _enable_controllers(self) -> None:
        directory = self.layout.unified
        for part in ("", *self.path[1:].split("/")[:-1]):
            directory = f"{directory}/{part}" if part else directory
            available = read(directory + "/cgroup.controllers").split()
            enabled = read(directory + "/cgroup.subtree_control").split()
            for controller in _UNIFIED_CONTROLLERS:
                if controller in available and controller not in enabled:
                    write(directory + "/cgroup.subtree_control", "+" + controller)

    def _limited_memory(self) -> int:
        """The v1 memory limit now in force, which decides in what order limits can be changed."""
        try:
            return int(read(self.directory("memory") + "/memory.limit_in_bytes"))
        except FileNotFoundError:
            return 0

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


def _walk(directory: str) -> Iterator[str]:
    """Give `directory` and all cgroups below it, parents first; nothing if it isn't there."""
    try:
        with os.scandir(directory) as entries:
            children = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    yield directory
    for child in children:
        yield from _walk(child)


def _wait_gone(pids: tuple[int, ...], seconds: float) -> bool:
    """Wait for the end of processes, which need not be children. False when the time is up."""
    deadline = time.monotonic() + seconds
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return False
        finally:
            os.close(fd)
    return True
