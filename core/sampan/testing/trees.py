"""Trees to test a storage driver with: changes to make, and pictures to compare.

A change is a function of a root directory. A suite makes it through a driver's mounts and in a plain
directory, and compares pictures of both.
"""

from __future__ import annotations

import io
import os
import pickle
import random
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sampan.api.storage import Mount, Whiteouts
from sampan.linux.mounts import MNT_DETACH, MS_PRIVATE, MS_REC, locked, mount_all, set_propagation, umount
from sampan.linux.namespaces import CLONE_NEWNS, in_thread, unshare

__all__ = [
    "Change", "Entry", "HandMadeLayer", "Node", "base", "full_picture", "in_child", "in_mounts", "picture", "random_changes", "rework",
]  # fmt: skip

T = TypeVar("T")
Change = Callable[[Path], object]

_SET_BY_HAND_NS = 10**18
"""Times before 2001 were set by a change and must be kept; later ones are the clock's and differ."""


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


Tree = dict[bytes, Node]


def full_picture(root: Path) -> Tree:
    """Read the whole tree; paths are relative, b"" is the root."""
    top = os.fsencode(root)
    found = {b"": _node(top)}
    for directory, directories, files in os.walk(top):
        for name in directories + files:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, top)] = _node(path)
    return found


def _node(path: bytes) -> Node:
    status = os.lstat(path)
    data = b""
    if stat.S_ISREG(status.st_mode):
        data = Path(os.fsdecode(path)).read_bytes()
    elif stat.S_ISLNK(status.st_mode):
        data = os.readlink(path)
    names = (name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith("trusted.overlay."))
    xattrs = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(names))
    owner, inode = (status.st_uid, status.st_gid), (status.st_dev, status.st_ino)
    return Node(status.st_mode, owner, status.st_rdev, status.st_mtime_ns, data, xattrs, inode)


@dataclass(frozen=True, slots=True)
class Entry:
    """All that is to be the same in two trees that were made by the same changes. `links` are all names of the inode."""

    mode: int
    owner: tuple[int, int]
    device: int
    mtime_ns: int
    data: bytes
    xattrs: tuple[tuple[str, bytes], ...]
    links: tuple[str, ...]


def picture(root: Path) -> dict[str, Entry]:
    """Read the whole tree below `root` ("." is the root itself), to be compared with another one."""
    nodes = {os.fsdecode(path) or ".": node for path, node in full_picture(root).items()}
    names: dict[tuple[int, int], list[str]] = {}
    for path in sorted(nodes):
        names.setdefault(nodes[path].inode, []).append(path)
    return {path: _entry(node, names) for path, node in nodes.items()}


def _entry(node: Node, names: dict[tuple[int, int], list[str]]) -> Entry:
    by_hand = node.mtime_ns < _SET_BY_HAND_NS
    links = () if stat.S_ISDIR(node.mode) else tuple(names[node.inode])
    return Entry(node.mode, node.owner, node.device, node.mtime_ns if by_hand else 0, node.data, node.xattrs, links)


def in_mounts(mounts: Sequence[Mount], action: Callable[[Path], T]) -> T:
    """Run `action` on the root that `mounts` show, in a thread with a mount namespace of its own."""

    def act() -> T:
        unshare(CLONE_NEWNS)
        set_propagation("/", MS_PRIVATE | MS_REC)
        with locked(mounts):
            mount_all(mounts, Path(place))
            try:
                return action(Path(place))
            finally:
                umount(place, MNT_DETACH)  # at once: what ends with a namespace ends a moment later

    with tempfile.TemporaryDirectory() as place:
        return in_thread(act)


def in_child(action: Callable[[], T]) -> T:
    """Run `action` in a child. The result is pickled. An error of the child is raised here."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        answer: tuple[bool, object]
        try:
            answer = (True, action())
        except BaseException as error:
            answer = (False, error)
        try:
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump(answer, pipe)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answered = pipe.read()
    os.waitpid(pid, 0)
    done, result = pickle.loads(answered)
    if not done:
        raise result
    returned: T = result
    return returned


def base(root: Path) -> None:
    """Fill an empty root with one of each kind of thing."""
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (root / "etc/sticky").mkdir()
    (root / "etc/sticky").chmod(0o1777)
    (root / "bin").mkdir()
    (root / "bin/su").write_bytes(b"program")
    os.chown(root / "bin/su", 3, 4)
    (root / "bin/su").chmod(0o4755)
    (root / "bin/ping").write_bytes(b"raw sockets")
    capability = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw+ep; capabilities(7)
    os.setxattr(root / "bin/ping", "security.capability", capability)
    os.setxattr(root / "etc", "trusted.colour", b"blue")
    os.symlink("../etc/passwd", root / "bin/link")
    os.symlink("nowhere", root / "dangling")
    os.chown(root / "dangling", 7, 8, follow_symlinks=False)
    os.link(root / "etc/passwd", root / "etc/passwd-")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(root / "fifo", 0o640)
    with (root / "sparse").open("wb") as file:
        file.seek(3_000_000)
        file.write(b"data")
        file.truncate(8_000_000)
    (root / "keep/deep/er").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (root / "keep/deep/er" / name).write_text(name)
    (root / "höme \n\udcff").mkdir(mode=0o700)
    os.utime(root / "etc/passwd", ns=(1_000, 987_654_321_123_456_789))
    os.utime(root / "dangling", ns=(1_000, 123_456_789_000_000_001), follow_symlinks=False)
    os.utime(root / "keep", ns=(1_000, 555_000_000_000_000_005))
    os.chown(root, 11, 12)
    root.chmod(0o751)


def rework(root: Path) -> None:
    """Change what `base` made in every way in which a layer can differ from what lies under it."""
    os.chown(root / "bin/su", 5, 6)  # takes the setuid bit away
    os.removexattr(root / "etc", "trusted.colour")
    os.setxattr(root / "etc", "trusted.shape", b"round")
    with (root / "etc/passwd").open("a") as file:
        file.write("user:x:1:1::/:/bin/sh\n")
    (root / "etc/passwd-").unlink()
    os.link(root / "etc/passwd", root / "passwd.link")
    (root / "null").unlink()
    (root / "null").mkdir()
    (root / "null/file").write_text("where a device was")
    shutil.rmtree(root / "keep/deep")
    (root / "keep/deep").mkdir()  # opaque: what was in it stays hidden
    (root / "keep/deep/new").write_text("new")
    shutil.rmtree(root / "etc/sticky")
    (root / "etc/sticky").write_text("where a directory was")
    subprocess.run(["mv", "-T", root / "bin", root / "sbin"], check=True)
    (root / "dangling").unlink()
    (root / "fifo").rename(root / "pipe")
    root.chmod(0o755)


def random_changes(seed: int, count: int = 40) -> Change:
    """Give a change of `count` random steps on a few names, so that later steps meet what earlier ones
    made.
    """

    def change(root: Path) -> None:
        dice = random.Random(seed)
        for step in range(count):
            names = [dice.choice("abc"), dice.choice("de"), dice.choice("fg")][: dice.randint(1, 3)]
            _random_step(dice, root, names, step)

    return change


def _random_step(dice: random.Random, root: Path, names: list[str], step: int) -> None:
    path = root.joinpath(*names)
    for parent in (root.joinpath(*names[:depth]) for depth in range(1, len(names))):
        if parent.is_symlink() or parent.is_file():
            parent.unlink()
        parent.mkdir(exist_ok=True)
    kind = dice.choice(["file", "file", "directory", "directory", "symlink", "remove", "mode", "owner"])
    if kind in ("mode", "owner"):
        if os.path.lexists(path) and kind == "owner":
            os.chown(path, step, step + 1, follow_symlinks=False)
        elif os.path.lexists(path) and not path.is_symlink():
            path.chmod(0o700 | step)
        return
    if path.is_dir() and not path.is_symlink():
        if kind == "directory":
            return
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
    if kind == "remove":
        return
    if kind == "file":
        path.write_text(f"step {step}\n" * step)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("a" * (step + 1))


class HandMadeLayer:
    """A `sampan.api.storage.Layer` that does by hand what an unpacker does: opaque directories, deletions, then files
    that hold their own path, or `contents`.
    """

    def __init__(
        self, files: Iterable[str] = (), deleted: Iterable[str] = (), opaque: Iterable[str] = (),
        contents: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._contents = {path: path for path in files} | dict(contents or {})
        self._deleted, self._opaque = list(deleted), list(opaque)
        self._tar: io.BytesIO | None = None

    def unpack(self, directory: int, whiteouts: Whiteouts) -> None:
        """Write into the directory."""
        root = Path(f"/proc/self/fd/{directory}")
        for path in self._opaque:
            if whiteouts is Whiteouts.DELETE:
                shutil.rmtree(root / path, ignore_errors=True)
            (root / path).mkdir(parents=True, exist_ok=True)
            if whiteouts is Whiteouts.OVERLAY:
                os.setxattr(root / path, "trusted.overlay.opaque", b"y")
        for path in self._deleted:
            delete(root / path, whiteouts)
        for path, content in self._contents.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content)

    def read(self, size: int = -1, /) -> bytes:
        """Give the same as a tar."""
        if self._tar is None:
            self._tar = io.BytesIO()
            with tarfile.open(fileobj=self._tar, mode="w") as tar:
                opaque = [f"{path}/.wh..wh..opq" for path in self._opaque]
                deleted = [str(Path(path).with_name(f".wh.{Path(path).name}")) for path in self._deleted]
                for name in opaque + deleted:
                    tar.addfile(tarfile.TarInfo(name))
                for path, content in self._contents.items():
                    member = tarfile.TarInfo(path)
                    member.size = len(content.encode())
                    tar.addfile(member, io.BytesIO(content.encode()))
            self._tar.seek(0)
        return self._tar.read(size)


def delete(place: Path, whiteouts: Whiteouts) -> None:
    """Carry out a layer's deletion of `place`, in the form asked for."""
    if whiteouts is Whiteouts.OVERLAY:
        place.parent.mkdir(parents=True, exist_ok=True)
        os.mknod(place, stat.S_IFCHR, os.makedev(0, 0))
    elif place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink()
