"""A leak check: two pictures of what the host holds, and the named differences between them.

    leaks = Leaks.before()
    ...
    leaks.check()

A picture is taken from the kernel's own lists (`proc(5)`, `sysfs(5)`, `ip-link(8)`, `nft(8)`). The kernel
takes some things apart after the call that asked for it has returned (network devices, cgroups, zombies), so
`after` looks again until nothing is left or its deadline has passed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Difference", "Leaks"]

_OURS = re.compile(r"sampan\.launch|\bsampan[-:](shim|zygote|netd)\b")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_LOOK_AGAIN = 0.02  # seconds

Picture = dict[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Difference:
    """What one kind of thing has gained and lost between two pictures."""

    appeared: tuple[str, ...]
    vanished: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Leaks:
    """The picture taken at the start. `mark` narrows what the host's other users could have made too."""

    picture: Picture
    mark: str

    @classmethod
    def before(cls, mark: str = "") -> Leaks:
        """Take the first picture.

        Children and open descriptors are this process's own and always count. Of mounts, network namespaces,
        links, tables, loop devices, cgroups and engine processes only those count whose name holds `mark`;
        without a mark all of them do, which needs a host that nobody else is changing.
        """
        return cls(_take(mark), mark)

    def after(self, timeout: float = 2.0) -> dict[str, Difference]:
        """Give the differences by kind, empty if there is none; wait up to `timeout` seconds for that."""
        deadline = time.monotonic() + timeout
        while (differences := self._differences()) and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN)
        return differences

    def check(self, timeout: float = 2.0) -> None:
        """Raise `AssertionError` with every difference by name."""
        differences = self.after(timeout)
        lines = [
            f"{kind}: {word} {thing}"
            for kind, difference in differences.items()
            for word, things in (("left behind", difference.appeared), ("lost", difference.vanished))
            for thing in things
        ]
        if lines:
            raise AssertionError("\n".join(lines))

    def _differences(self) -> dict[str, Difference]:
        now = _take(self.mark)
        differences = {
            kind: Difference(tuple(sorted(now[kind] - then)), tuple(sorted(then - now[kind] if kind != "children" else ())))
            for kind, then in self.picture.items()
        }  # a child that was there and is no more has ended and was collected: nothing is lost
        return {kind: each for kind, each in differences.items() if each.appeared or each.vanished}


def _take(mark: str) -> Picture:
    """Look at everything once."""
    own: dict[str, Callable[[], Iterator[str]]] = {"children": _children, "descriptors": _descriptors}
    shared: dict[str, Callable[[], Iterator[str]]] = {
        "mounts": _mounts,
        "network namespaces": _network_namespaces,
        "links": _links,
        "nftables": _nftables,
        "cgroups": _cgroups,
        "loop devices": _loop_devices,
        "engine processes": _engine_processes,
    }
    picture = {kind: frozenset(look()) for kind, look in own.items()}
    picture |= {kind: frozenset(thing for thing in look() if mark in thing) for kind, look in shared.items()}
    return picture


def _children() -> Iterator[str]:
    """Children of this process and orphans that were handed to it, zombies too: one line each."""
    for task in _entries(Path("/proc/self/task")):
        for pid in _text(task / "children").split():
            name = _text(Path("/proc", pid, "comm")).strip()
            if name:
                yield f"{pid} ({name})"


def _descriptors() -> Iterator[str]:
    for entry in _entries(Path("/proc/self/fd")):
        try:
            yield f"{entry.name} -> {os.readlink(entry)}"
        except OSError:
            continue  # the descriptor that listed the directory


def _mounts() -> Iterator[str]:
    """Mounts of this process's mount namespace, with their ids: the same path may be mounted on twice."""
    for line in _text(Path("/proc/self/mountinfo")).splitlines():
        fields, _, super_block = line.partition(" - ")
        mount_id, _, _, root, target = fields.split()[:5]
        yield f"{target} (root {root}, {super_block.rsplit(' ', 1)[0]}, id {mount_id})"


def _network_namespaces() -> Iterator[str]:
    """Namespaces with a name, and those that some process lives in."""
    for entry in _entries(Path("/run/netns")):
        yield str(entry)
    for process in _processes():
        try:
            yield os.readlink(process / "ns" / "net")
        except OSError:
            continue  # gone, or not ours to look at


def _links() -> Iterator[str]:
    """Links of this process's network namespace. By `ip`: /sys/class/net shows that of sysfs's mounter."""
    if shutil.which("ip") is None:
        return
    for link in json.loads(_output(["ip", "-json", "link", "show"]) or "[]"):
        yield f"{link['ifname']} (index {link['ifindex']})"


def _nftables() -> Iterator[str]:
    """Tables of this process's network namespace; none where the program or the right to ask is missing."""
    if shutil.which("nft") is not None:
        yield from _output(["nft", "list", "tables"]).splitlines()


def _cgroups() -> Iterator[str]:
    """Cgroups of every hierarchy with the engine's name in their path."""
    for parent, names, _ in os.walk(_CGROUP_ROOT):
        for name in names:
            path = f"{parent}/{name}"
            if "sampan" in path:
                yield path


def _loop_devices() -> Iterator[str]:
    for device in Path("/sys/block").glob("loop*"):
        backing = _text(device / "loop" / "backing_file").strip()
        if backing:
            yield f"/dev/{device.name} on {backing}"


def _engine_processes() -> Iterator[str]:
    for process in _processes():
        command = _text(process / "cmdline").replace("\0", " ").strip()
        if _OURS.search(command) and process.name != str(os.getpid()):
            yield f"{process.name} {command}"


def _processes() -> Iterator[Path]:
    return (entry for entry in _entries(Path("/proc")) if entry.name.isdigit())


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    """Give a file's text, or nothing if it went away while we looked."""
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
