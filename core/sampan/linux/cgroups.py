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
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sampan.linux import mounts
from sampan.linux.cgroup_controllers import Controllers
from sampan.linux.cgroup_files import read, text, write
from sampan.linux.cgroup_layout import OWN_HIERARCHY, Layout, detect
from sampan.linux.cgroup_oom import count_oom_kills
from sampan.linux.cgroup_stats import Stats, read_stats
from sampan.linux.cgroup_trees import members, remove_tree, wait_gone, walk

__all__ = ["Cgroup", "Layout", "Stats", "detect", "favor_moves", "leave_moves"]

_UNIFIED_CONTROLLERS: Final = frozenset({"cpu", "cpuset", "memory", "pids", "io", "hugetlb"})
_REMOVE_SECONDS: Final = 10.0
_DELEGATE: Final = "/sys/kernel/cgroup/delegate"


def favor_moves(place: str | Path) -> None:
    """Have the kernel move processes between cgroups without an RCU grace period (5 to 12 ms), until `leave_moves`; nothing
    happens where moves are not needed (pure v2: processes are born in place). `place` is a directory to be made or empty.

    The kernel has that as the option `favordynmods` of any one hierarchy, and makes forks a little dearer for
    it. So this is an empty hierarchy of our own; the host's stay as they are. It is mounted where others find it: who reads the
    cgroups of a process may want to see each of its hierarchies mounted (containerd does). Raises `OSError`.
    """
    leave_moves(place)  # left by one that was killed
    if detect().version != "v2":
        os.makedirs(place, 0o700, exist_ok=True)
        mounts.mount("sampan", place, "cgroup", 0, f"none,{OWN_HIERARCHY},favordynmods")


def leave_moves(place: str | Path) -> None:
    """Take away what `favor_moves` made at `place`, if it did. Raises `OSError`."""
    try:
        mounts.umount(place, mounts.MNT_DETACH | mounts.UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(place)


class Cgroup:
    """The cgroup `path` (absolute, from the mount points) in all hierarchies of `layout`."""

    def __init__(self, path: str, layout: Layout | None = None) -> None:
        """Only names it. Raises `ValueError` for a path that isn't plain and absolute."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if not path.startswith("/") or not parts or ".." in parts or "\0" in path:
            raise ValueError(f"cgroup path {path!r} is not absolute and plain")
        self.path = "/" + "/".join(parts)
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
                Controllers(self.layout, self.path).enable(_UNIFIED_CONTROLLERS & self.layout.controllers)

    def apply(self, resources: Mapping[str, Any]) -> None:
        """Set limits from an OCI `linux.resources` object; what it doesn't mention stays.

        Raises `ValueError`, and `OSError`: EOPNOTSUPP for what this host cannot do. Then what was written before holds.
        """
        Controllers(self.layout, self.path).apply(resources)

    def add(self, pid: int, *, unified: bool = True) -> None:
        """Move a process in. The first move in a while waits for the kernel (an RCU grace period, 5 to 12
        ms); `unified=False` leaves the v2 tree out, for a process that was born there.
        """
        text = str(pid)
        for root in self.layout.roots:
            if unified or root != self.layout.unified:
                write(f"{root}{self.path}/cgroup.procs", text)

    def delegate(self, uid: int) -> None:
        """Let a user make cgroups below, and move processes between them, on v2; v1 cannot do that safely. Raises `OSError`."""
        if self.layout.version != "v2" or uid == 0:
            return
        directory = self.directory()
        os.chown(directory, uid, -1)
        for name in (text(_DELEGATE) or "cgroup.procs cgroup.subtree_control cgroup.threads").split():
            with contextlib.suppress(FileNotFoundError):  # of a controller that isn't here
                os.chown(f"{directory}/{name}", uid, -1)

    def open_unified(self) -> int:
        """Give a descriptor for `CLONE_INTO_CGROUP`, or -1 where there is no v2 tree."""
        if not self.layout.unified:
            return -1
        return os.open(self.directory(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def unfit(self) -> str:
        """Say why v2 takes no process in it, or "". To be asked when a birth there was refused."""
        if not self.layout.unified:
            return ""
        kind = text(self.directory() + "/cgroup.type").strip()
        if kind in ("threaded", "domain invalid"):
            return f"cgroup {self.path} can have no processes: what is above it is threaded"
        if text(self.directory() + "/cgroup.subtree_control").strip():
            return f"cgroup {self.path} can have no processes: it has given controllers to cgroups below"
        return ""

    def open_beside(self, pid: int) -> int:
        """As `open_unified`, for one more process of the container that `pid` is in.

        Where that has made cgroups below and given them controllers, v2 takes no process in the middle: then it is the
        cgroup that `pid` is in.
        """
        if not self.layout.unified:
            return -1
        directory = self.directory()
        if read(directory + "/cgroup.subtree_control").strip():
            for line in read(f"/proc/{pid}/cgroup").splitlines():
                if line.startswith(f"0::{self.path}/"):
                    directory = self.layout.unified + line[3:]
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

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
                self._thaw_v1()  # by which runc pauses on hybrid hosts, and which no kill reaches through
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
        if "freezer" not in self.layout.v1:
            raise OSError(errno.EOPNOTSUPP, "this host has neither cgroup v2 nor the v1 controller freezer")
        state = "FROZEN" if frozen else "THAWED"
        name = self.directory("freezer") + "/freezer.state"
        deadline = time.monotonic() + _REMOVE_SECONDS
        write(name, state)
        while read(name).strip() != state:  # v1 has no event for it, and wants the write again
            if time.monotonic() > deadline:
                write(name, "THAWED")
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
        stays: list[OSError] = []
        for root in reversed(self.layout.roots):
            try:
                if not self._is_removed_at_once(root):
                    remove_tree(root + self.path, deadline)
            except OSError as error:
                stays.append(error)  # the others go all the same
        if stays:
            raise stays[0]

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

    def _check_left_over(self, directory: str) -> None:
        if any(True for _ in members(directory)):  # who is of another pid namespace counts as 0
            raise OSError(errno.EBUSY, f"cgroup {directory} has processes", directory)
        if self.is_frozen():
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
