"""What a container has changed in its image's files (`docker diff`).

Source of what is told: dockerd 20.10 with overlay2, asked side by side (docs/adr/0067-diffs.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import groupby

from sampan.api.errors import System, host_errors
from sampan.api.storage import Change, ChangeKind, StorageDriver
from sampan.engine.container import Container
from sampan.engine.storage import StorageDrivers
from sampan.linux import mounts
from sampan.linux.comparing import same_but_mtime

RUNTIME_PLACES = frozenset({
    b".dockerenv", b"dev", b"dev/console", b"dev/pts", b"dev/shm", b"etc/hostname", b"etc/hosts", b"etc/mtab",
    b"etc/resolv.conf", b"proc", b"sys",
})  # fmt: skip
"""What a runtime makes in every root that lacks it, to mount on: Docker has these in a layer of their own below the container's."""

_WITH_PLACES = frozenset(path.partition(b"/")[0] for path in RUNTIME_PLACES)
_PATH_MAX = 4096
_MAX_BYTES = 64 << 20


async def of_container(storages: StorageDrivers, container: Container) -> list[Change]:
    """Give what the container changed, as Docker tells it: sorted as a walk, each with its ancestors.

    The root is never told, nor is a path that is too long for any system call. Raises the driver's errors, and `System` if
    all paths together take more than 64 MB, `Conflict` if the container is removed or moved meanwhile.
    """
    storage = await storages.get(container.record.storage_driver)
    with container.reading(storage.name):
        return await storage.call_for_long(_list, storage.driver, container.id)


def _list(driver: StorageDriver, key: str) -> list[Change]:
    changes = []
    size = 0
    for change in with_ancestors(_shown(driver, key)):
        size += len(change.path)
        if size > _MAX_BYTES:
            raise System(
                f"list the changes of container {key[:12]}: their paths take more than {_MAX_BYTES >> 20} MB",
                remedy="export the container, and look into the tar",
            )
        changes.append(change)
    return changes


def _shown(driver: StorageDriver, key: str) -> Iterator[Change]:
    for change in without_places(driver, key):
        if change.path and len(change.path) < _PATH_MAX and change.kind is not ChangeKind.LINKED:
            yield change


def without_places(driver: StorageDriver, key: str) -> Iterator[Change]:
    """Give what `diff` tells but the places for mounts that are in every container, and directories changed by these alone.

    Blocks. Raises the driver's errors.
    """
    for top, group in groupby(driver.diff(key), key=lambda change: change.path.partition(b"/")[0]):
        if top not in _WITH_PLACES:
            yield from group
            continue
        below = list(group)
        told = [change for change in below if not (change.path in RUNTIME_PLACES and change.kind is ChangeKind.ADDED)]
        if len(told) == len(below) or [change.path for change in told] != [top] or not _made_for_places(driver, key, told[0]):
            yield from told


def _made_for_places(driver: StorageDriver, key: str, directory: Change) -> bool:
    """Tell whether a directory in which places were made differs in nothing else."""
    return directory.kind is ChangeKind.ADDED or only_mtime_differs(driver, key, directory.path)


def with_ancestors(changes: Iterable[Change]) -> Iterator[Change]:
    """Give sorted changes, and before each the directories that lead to it, as modified where they are not told."""
    last: list[bytes] = []
    for change in changes:
        parts = change.path.split(b"/")
        common = 0
        while common < min(len(parts), len(last)) and parts[common] == last[common]:
            common += 1
        for depth in range(common + 1, len(parts)):
            yield Change(b"/".join(parts[:depth]), ChangeKind.MODIFIED)
        yield change
        last = parts


def only_mtime_differs(driver: StorageDriver, key: str, directory: bytes) -> bool:
    """Tell whether a directory of a snapshot is in itself as in its parent, but for its mtime. Blocks.

    `directory` is a path that both have, b"." the root's; False without a parent. Raises `System`.
    """
    parent = driver.stat(key).parent
    if parent is None:
        return False
    with (
        host_errors(f"compare /{os.fsdecode(directory)} of snapshot {key!r} with its parent's"),
        mounts.open_root(driver.look(parent)) as old,
        mounts.open_root(driver.look(key)) as new,
    ):
        return same_but_mtime(old, new, directory)
