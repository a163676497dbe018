"""Diffs judged: what `StorageDriver.diff` must tell, worked out from pictures of two trees and not by the code that tells it.

    before, after = in_mounts(driver.look("parent"), full_picture), in_mounts(driver.look("child"), full_picture)
    assert told(driver, "child") == expected(before, after)
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from sampan.api import storage as api
from sampan.api.errors import Unsupported
from sampan.api.storage import ChangeKind, SnapshotOptions, StorageDriver, Whiteouts
from sampan.linux.mounts import open_root
from sampan.testing.trees import Change, Node, Tree, delete, full_picture, in_mounts

__all__ = ["Node", "PickedLayer", "check_changes", "check_diff", "check_round_trip", "expected", "full_picture", "told"]

Told = list[tuple[bytes, ChangeKind]]


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
    """Make each change in a layer of its own, and judge its diff, apply that elsewhere, and judge it again when it is committed."""
    parent = None
    every: list[Told] = []
    for number, change in enumerate(changes):
        driver.prepare("changing", parent, SnapshotOptions())
        assert parent is None or check_diff(driver, "changing") == []
        in_mounts(driver.mounts("changing"), change)
        active = check_diff(driver, "changing")
        check_round_trip(driver, "changing")
        parent = name(number)
        driver.commit(parent, "changing")
        assert check_diff(driver, parent) == active
        every.append(active)
    return every


def check_round_trip(driver: StorageDriver, key: str) -> None:
    """Apply what `diff` tells of `key` to another snapshot of its parent: both must be the same, hard links too.

    Names that were links of one file, and are no more although nothing else was done to them, may still be.
    """
    changes = list(driver.diff(key))
    driver.prepare("copied", driver.stat(key).parent, SnapshotOptions())
    with open_root(driver.look(key)) as source:
        driver.apply("copied", PickedLayer(source, changes))
    original, copied = (in_mounts(driver.look(each), full_picture) for each in (key, "copied"))
    assert {path: _in_itself(node) for path, node in copied.items()} == {
        path: _in_itself(node) for path, node in original.items()
    }
    for names in _links(original).values():
        assert len({copied[name].inode for name in names}) == 1, f"{names} are no longer links of one file"
    driver.remove("copied")


class PickedLayer:
    """A `sampan.api.storage.Layer` of what changes name in the tree of the directory descriptor `source`."""

    def __init__(self, source: int, changes: Iterable[api.Change]) -> None:
        self._source = Path(f"/proc/{os.getpid()}/fd/{source}")  # a child of ours copies from it
        self._changes = list(changes)

    def unpack(self, directory: int, whiteouts: Whiteouts) -> None:
        """Copy one name after the other, and directories' metadata at the end."""
        target = Path(f"/proc/{os.getpid()}/fd/{directory}")
        firsts: dict[tuple[int, int], Path] = {}
        directories: dict[Path, Path] = {target: self._source}
        for change in self._changes:
            name = os.fsdecode(change.path)
            for above in reversed(Path(name).parents):
                (target / above).mkdir(exist_ok=True)
                directories[target / above] = self._source / above
            place, origin = target / name, self._source / name
            if not name:
                continue  # the root, whose metadata come at the end
            if change.kind is ChangeKind.DELETED:
                delete(place, whiteouts)
            elif not origin.is_symlink() and origin.is_dir():
                if os.path.lexists(place) and (place.is_symlink() or not place.is_dir()):
                    place.unlink()
                place.mkdir(exist_ok=True)
                directories[place] = origin
            else:
                if os.path.lexists(place):
                    delete(place, Whiteouts.DELETE)
                first = firsts.setdefault(_node_inode(origin), place)
                if first is place:
                    subprocess.run(["cp", "-a", "-T", origin, place], check=True)
                else:
                    os.link(first, place, follow_symlinks=False)
        for place, origin in reversed(directories.items()):
            _copy_metadata(origin, place)

    def read(self, size: int = -1, /) -> bytes:
        """Refuse: it is no tar."""
        raise Unsupported("read a layer that was picked from a tree: it is no tar", remedy="use `unpack`")


def _node_inode(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _copy_metadata(origin: Path, place: Path) -> None:
    status = origin.stat()
    os.chown(place, status.st_uid, status.st_gid)
    place.chmod(stat.S_IMODE(status.st_mode))
    for name in os.listxattr(place):
        if not name.startswith("trusted.overlay."):
            os.removexattr(place, name)
    for name in os.listxattr(origin):
        if not name.startswith("trusted.overlay."):
            os.setxattr(place, name, os.getxattr(origin, name))
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))


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
