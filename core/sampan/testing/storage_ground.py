"""What the parts of the storage suite share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from sampan.api.storage import SnapshotInfo, SnapshotKind, SnapshotOptions, StorageDriver
from sampan.testing.trees import HandMadeLayer

PLAIN = SnapshotOptions()
MEGABYTE = 1 << 20

Start = Callable[[], StorageDriver]
"""Opens a new driver on the same root, as a daemon does that starts again; closes the one before."""

Told = tuple[str, str | None, SnapshotKind]


def claimed(driver: StorageDriver) -> frozenset[str]:
    """Give the optional parts of the contract that the driver says it has, here and with its settings."""
    return driver.capabilities(driver.probe(driver.context.root).capabilities)


def told(driver: StorageDriver, key: str) -> Told:
    """Give key, parent and kind of a snapshot."""
    info: SnapshotInfo = driver.stat(key)
    assert info.created > 0
    return info.key, info.parent, info.kind


def all_told(driver: StorageDriver) -> dict[str, Told]:
    """Give key, parent and kind of every snapshot."""
    return {info.key: (info.key, info.parent, info.kind) for info in driver.walk()}


def make_layer(
    driver: StorageDriver, name: str, parent: str | None, *, files: Iterable[str] = (), deleted: Iterable[str] = ()
) -> None:
    """Make a committed snapshot from files that hold their own path."""
    driver.prepare(f"making {name}", parent, PLAIN)
    driver.apply(f"making {name}", HandMadeLayer(files, deleted))
    driver.commit(name, f"making {name}")


def files_under(root: Path) -> list[str]:
    """Give every path under `root`."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))
