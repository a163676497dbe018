"""Diffs judged: what `StorageDriver.diff` must tell, worked out from pictures of two trees and not by the code that tells it.

    before, after = in_mounts(driver.look("parent"), full_picture), in_mounts(driver.look("child"), full_picture)
    assert told(driver, "child") == expected(before, after)
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sampan.api.storage import ChangeKind, SnapshotOptions, StorageDriver
from sampan.testing.trees import Change, in_mounts

__all__ = ["Node", "check_changes", "check_diff", "expected", "full_picture", "told"]

Tree = dict[bytes, "Node"]
Told = list[tuple[bytes, ChangeKind]]


@dataclass(frozen=True, slots=True)
class Node:
    """What is under one name: all that a layer carries, and the inode, by which hard links are known."""

    mode: int
    owner: tuple[int, int]
    device: int
    mtime_ns: int
    data: bytes
    xattrs: tuple[tuple[str, bytes], ...]
    inode: tuple[int, int]


def full_picture(root: Path) -> Tree:
    """Read the whole tree; paths are relative, b"" is the root."""
    top = os.fsencode(root)
    found = {b"": _node(top)}
    for directory, directories, files in os.walk(top):
        for name in directories + files:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, top)] = _node(path)
    return found


def expected(before: Tree | None, after: Tree) -> Told:
    """Give what leads from one tree to the other, by the rules in `StorageDriver.diff`'s text."""
    if before is None:
        return [(path, ChangeKind.ADDED) for path in _as_walked(after) if path]
    kinds: dict[bytes, ChangeKind] = {}
    for path in _as_walked({*before, *after}):
        if path not in after:
            if _was_reachable(path, after):
                kinds[path] = ChangeKind.DELETED
        elif path not in before:
            kinds[path] = ChangeKind.ADDED
        elif _in_itself(before[path]) != _in_itself(after[path]):
            kinds[path] = ChangeKind.MODIFIED
    for names in _links(after).values():
        told = [name for name in names if name in kinds]
        untold = [name for name in names if name not in kinds]
        if told or len({before[name].inode for name in untold}) > 1:
            kinds.update(dict.fromkeys(untold, ChangeKind.LINKED))
    return [(path, kinds[path]) for path in _as_walked(kinds)]


def told(driver: StorageDriver, key: str) -> Told:
    """Give what the driver tells."""
    return [(change.path, change.kind) for change in driver.diff(key)]


def check_diff(driver: StorageDriver, key: str) -> Told:
    """Compare what the driver tells of `key` with pictures of it and its parent; give it."""
    parent = driver.stat(key).parent
    before = None if parent is None else in_mounts(driver.look(parent), full_picture)
    after = in_mounts(driver.look(key), full_picture)
    found, wanted = told(driver, key), expected(before, after)
    assert found == wanted, f"missing {sorted(set(wanted) - set(found))}, too much {sorted(set(found) - set(wanted))}"
    return found


def check_changes(driver: StorageDriver, changes: list[Change], name: Callable[[int], str] = "layer{}".format) -> list[Told]:
    """Make each change in a layer of its own, and judge its diff while it is active, and again when it is committed."""
    parent = None
    every: list[Told] = []
    for number, change in enumerate(changes):
        driver.prepare("changing", parent, SnapshotOptions())
        assert parent is None or check_diff(driver, "changing") == []
        in_mounts(driver.mounts("changing"), change)
        active = check_diff(driver, "changing")
        parent = name(number)
        driver.commit(parent, "changing")
        assert check_diff(driver, parent) == active
        every.append(active)
    return every


def _node(path: bytes) -> Node:
    status = os.lstat(path)
    data = b""
    if stat.S_ISREG(status.st_mode):
        data = Path(os.fsdecode(path)).read_bytes()
    elif stat.S_ISLNK(status.st_mode):
        data = os.readlink(path)
    names = (name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith("trusted.overlay."))
    xattrs = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(names))
    owner, device = (status.st_uid, status.st_gid), (status.st_dev, status.st_ino)
    return Node(status.st_mode, owner, status.st_rdev, status.st_mtime_ns, data, xattrs, device)


def _in_itself(node: Node) -> tuple[object, ...]:
    return node.mode, node.owner, node.device, node.mtime_ns, node.data, node.xattrs


def _was_reachable(path: bytes, after: Tree) -> bool:
    """Tell whether the directory of a name that is gone is still a directory: else that tells enough."""
    above = os.path.dirname(path)
    return above in after and stat.S_ISDIR(after[above].mode)


def _links(tree: Tree) -> dict[tuple[int, int], list[bytes]]:
    names: dict[tuple[int, int], list[bytes]] = {}
    for path, node in tree.items():
        if not stat.S_ISDIR(node.mode):
            names.setdefault(node.inode, []).append(path)
    return {inode: paths for inode, paths in names.items() if len(paths) > 1}


def _as_walked(paths: Iterable[bytes]) -> list[bytes]:
    return sorted(paths, key=lambda path: path.split(b"/"))
