"""The storage contract: layered root file systems as snapshots.

A snapshot has a *key* and at most one *parent*. It is born **active** (`prepare`, writable) or as a **view** (`view`,
read-only). `commit` turns an active one into a **committed** one under a new name; only committed snapshots can be
parents. Keys and names share one name space and are opaque: any string without NUL up to 255 bytes, so a driver must not
use them as a path unencoded. The engine names committed snapshots by OCI chain id.

What holds after a crash: an operation either happened or did not. `open` finishes or undoes whatever was under way, and
sweeps files that no snapshot owns. `remove` forgets first and deletes after.

Mounts are data. The driver never mounts a container's root; the runtime does, in the container's own mount namespace.

Layers are tars outside and snapshots inside. `apply` puts one in: the engine hands the driver a `Layer`, which unpacks
itself into any directory in a confined child, and checks its digest. `diff` gives one out: it tells what changed, as data,
and the engine writes the tar from what `look` shows. Both have a default here, for drivers that know no shorter way.

Source of the semantics: containerd's `core/snapshots/snapshotter.go`.
"""

from __future__ import annotations

import enum
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sampan.api.driver import Driver
from sampan.api.errors import Conflict, host_errors
from sampan.linux import comparing
from sampan.linux.comparing import Change, ChangeKind
from sampan.linux.mounts import Mount, open_root

if TYPE_CHECKING:
    from sampan.api.config import DriverConfig

__all__ = [
    "Change", "ChangeKind", "Damage", "Layer", "Mount", "SnapshotInfo", "SnapshotKind", "SnapshotOptions",
    "StorageCapability", "StorageContext", "StorageDriver", "Usage", "Whiteouts",
]  # fmt: skip


class StorageCapability(enum.StrEnum):
    """Optional parts of the contract."""

    QUOTA = "quota"
    """`SnapshotOptions.size` is enforced."""
    IDMAP = "idmap"
    """The mounts work when the runtime maps owners (`mount_setattr(MOUNT_ATTR_IDMAP)`)."""
    SHARES_BLOCKS = "shares-blocks"
    """A child costs only what differs from its parent."""
    NATIVE_DIFF = "native-diff"
    """The driver knows what changed without comparing whole trees."""


class SnapshotKind(enum.StrEnum):
    """The state of a snapshot."""

    ACTIVE = "active"
    VIEW = "view"
    COMMITTED = "committed"


class Whiteouts(enum.StrEnum):
    """How the deletions in a layer tar (`.wh.NAME`, `.wh..wh..opq`) are carried out in the directory it is unpacked into."""

    DELETE = "delete"
    """The directory holds the whole tree: what is whited out is deleted from it."""
    OVERLAY = "overlay"
    """The directory is an overlay upper: a 0/0 character device stands for a deletion, `trusted.overlay.opaque=y` for opaque."""


@dataclass(frozen=True, slots=True)
class SnapshotOptions:
    """What a caller may ask of a new snapshot.

    `size`: at most so many bytes may be written (needs QUOTA; `Unsupported` otherwise, never ignored).
    `volatile`: contents need not survive a power cut. `labels`: kept and given back by `stat`.
    """

    size: int | None = None
    volatile: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """What `stat` and `walk` tell. `created` is in seconds since the epoch."""

    key: str
    parent: str | None
    kind: SnapshotKind
    created: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """Disk use of one snapshot without its parents: allocated bytes (`st_blocks * 512`) and inodes, each inode once."""

    bytes: int
    inodes: int


class Layer(Protocol):
    """A layer's tar on its way into a snapshot. Use one of its methods, once.

    Both check the plain tar's digest, and raise `InvalidArgument` for a layer that is damaged, hostile or not the one it
    should be; the snapshot is half-filled then and its owner removes it.
    """

    def unpack(self, directory: int, whiteouts: Whiteouts) -> None:
        """Write the files into `directory`, a descriptor, from a confined child process. Not flushed to disk."""
        ...

    def read(self, size: int = -1, /) -> bytes:
        """Give at most `size` bytes of the plain tar, b"" at the end: for drivers that keep layers in another form."""
        ...


@dataclass(frozen=True, slots=True)
class Damage:
    """Something wrong in a driver's storage: `subject` (a snapshot, a file), `problem`, and the `remedy`.

    `repairable`: `repair` mends it without losing anything that a snapshot owns.
    """

    subject: str
    problem: str
    remedy: str
    repairable: bool


@dataclass(frozen=True, slots=True)
class StorageContext:
    """What the engine hands a driver: `root`, a directory of its own (made before, mode 0700), and the engine's id."""

    root: Path
    engine_id: str


class StorageDriver(Driver):
    """Layered root file systems as snapshots, version 1.0. See the module's text for the rules."""

    def __init__(self, context: StorageContext, config: DriverConfig) -> None:
        """Keep the arguments; do nothing else."""
        self.context = context
        self.config = config

    def capabilities(self, probed: frozenset[str]) -> frozenset[str]:
        """Give the optional parts that work with these settings. By default those `probed`: what `probe` found without them."""
        return probed

    @abstractmethod
    def open(self) -> None:
        """Load what is under `context.root` and repair what a crash left; idempotent. `System` if that fails."""

    @abstractmethod
    def close(self) -> None:
        """Let go of host resources (files, mounts, loop devices); idempotent; snapshots stay."""

    @abstractmethod
    def prepare(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Make the active snapshot `key` on the committed `parent`, or an empty one.

        Raises `Conflict` if the key is taken, `NotFound` if the parent is not there, `InvalidArgument` if the parent is
        not committed or the key is malformed, `Unsupported` for an option the driver cannot honour.
        """

    @abstractmethod
    def view(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Make the read-only snapshot `key` on the committed `parent`. Errors as `prepare`."""

    @abstractmethod
    def mounts(self, key: str) -> tuple[Mount, ...]:
        """Give the mounts that show snapshot `key`, in order, for an active snapshot or a view.

        The same answer for as long as the snapshot lives, also in another process. Raises `NotFound`;
        `Conflict` for a committed one (take a view).
        """

    @abstractmethod
    def look(self, key: str) -> tuple[Mount, ...]:
        """Give the mounts that show snapshot `key`, of any kind, read-only.

        They may be made beside those of `mounts`, also while a container writes: what it writes meanwhile may be seen or
        not. Raises `NotFound`.
        """

    def apply(self, key: str, layer: Layer) -> None:
        """Write a layer into the active snapshot `key`. By default it is unpacked through the snapshot's mounts.

        Raises what the layer raises, `NotFound`, and `Conflict` for a snapshot that is not active.
        """
        kind = self.stat(key).kind
        if kind is not SnapshotKind.ACTIVE:
            raise Conflict(f"write a layer into snapshot {key!r}: it is {kind}, not active")
        with ExitStack() as stack:
            with host_errors(f"open snapshot {key!r}"):
                root = stack.enter_context(open_root(self.mounts(key)))
            layer.unpack(root, Whiteouts.DELETE)

    def diff(self, key: str) -> Iterator[Change]:
        """Tell what the snapshot `key`, of any kind, changes in its parent; in a first snapshot everything is added.

        Paths are sorted as a walk gives them: a directory, then all in it, names in the order of their bytes; what is
        below a deleted or an added name comes with it only where it is added. A directory that holds changes is itself
        told only if its own metadata differ. By default both trees are compared, contents too where metadata leave doubt.
        A file that nothing was done to is told as linked where a hard link of it was made, so that a layer can have both names.
        Raises `NotFound`.
        """
        parent = self.stat(key).parent
        with ExitStack() as stack, host_errors(f"compare snapshot {key!r} with its parent"):
            new = stack.enter_context(open_root(self.look(key)))
            old = None if parent is None else stack.enter_context(open_root(self.look(parent)))
            yield from comparing.compare(old, new)

    @abstractmethod
    def commit(self, name: str, key: str) -> None:
        """Turn the active `key` into the committed `name`; `key` is gone afterwards.

        Durable when it returns. Raises `Conflict` if the name is taken or `key` is not active, `NotFound`.
        """

    @abstractmethod
    def remove(self, key: str) -> None:
        """Delete a snapshot. Raises `NotFound`, and `Conflict` while it has children."""

    @abstractmethod
    def stat(self, key: str) -> SnapshotInfo:
        """Describe one snapshot. Raises `NotFound`."""

    @abstractmethod
    def walk(self) -> Iterator[SnapshotInfo]:
        """Give every snapshot, parents before children, as of the time of the call."""

    @abstractmethod
    def usage(self, key: str) -> Usage:
        """Measure one snapshot without its parents. Raises `NotFound`."""

    def check(self) -> Iterable[Damage]:
        """Compare what the driver recorded with what is on the host, changing nothing. By default nothing is found."""
        return ()

    def repair(self) -> Iterable[Damage]:
        """Mend what `check` calls repairable, while other snapshots are in use; give what was mended."""
        return ()
