"""The capability IDMAP, tested: what a container whose root is nobody on the host finds, does and leaves in a snapshot."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sampan.api.storage import Mount, SnapshotOptions, StorageDriver
from sampan.linux.mounts import locked, open_mount
from sampan.linux.namespaces import CLONE_NEWUSER, IdRange, new_userns, setns
from sampan.testing.trees import in_child, in_mounts

__all__ = ["check_shifted_owners", "in_shifted_mounts"]

OUTSIDE, COUNT = 200000, 65536
"""What id 0 inside is outside, and how many ids there are."""

T = TypeVar("T")
Owner = tuple[int, int]


def check_shifted_owners(driver: StorageDriver) -> None:
    """Have a root with shifted owners read and changed by its own root and by a user; look at what is on disk then.

    `driver` is open and claims IDMAP. It keeps the snapshots "idmap-layer" and "idmap-key".
    """
    driver.prepare("idmap-key", None, SnapshotOptions())
    in_mounts(driver.mounts("idmap-key"), _fill)
    driver.commit("idmap-layer", "idmap-key")
    driver.prepare("idmap-key", "idmap-layer", SnapshotOptions())
    before = in_mounts(driver.look("idmap-layer"), _owners)

    outside = in_shifted_mounts(driver.mounts("idmap-key"), None, lambda: Path("setuid").stat())
    assert (outside.st_uid, outside.st_mode & stat.S_ISUID) == (OUTSIDE, stat.S_ISUID), "a setuid program of root's is not the host root's"
    in_shifted_mounts(driver.mounts("idmap-key"), 0, _change_as_root)
    in_shifted_mounts(driver.mounts("idmap-key"), 1000, _change_as_user)

    assert in_mounts(driver.look("idmap-key"), _owners) == {
        ".": (0, 0), "root": (0, 0), "setuid": (0, 0), "users": (1000, 1000), "beyond": (COUNT + 5, COUNT + 5),
        "five": (7, 8), "dir": (5, 6), "dir/copied": (5, 6), "dir/moved": (5, 6), "made": (0, 0), "made/file": (0, 0),
        "link": (0, 0), "users/file": (1000, 1000),
    }  # fmt: skip
    assert in_mounts(driver.look("idmap-key"), lambda root: (root / "dir/copied").read_text()) == "data and more"
    assert in_mounts(driver.look("idmap-layer"), _owners) == before

    driver.remove("idmap-key")
    driver.view("idmap-key", "idmap-layer", SnapshotOptions())
    assert in_shifted_mounts(driver.mounts("idmap-key"), 0, lambda: _owners(Path())) == {**before, "beyond": (65534, 65534)}
    assert in_shifted_mounts(driver.mounts("idmap-key"), 0, lambda: _error(lambda: Path("new").touch())) == errno.EROFS


def in_shifted_mounts(mounts: Sequence[Mount], user: int | None, action: Callable[[], T]) -> T:
    """Run `action` in a child whose working directory is the root that `mounts` (one) show with shifted owners.

    It is the `user` of the user namespace, or None: the host's root. The result is pickled. An error of the child is raised here.
    """

    def act() -> T:
        with _shifted_root(mounts, userns) as root:
            os.fchdir(root)
            if user is not None:
                setns(userns, CLONE_NEWUSER)
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(0, 0, 0)  # from the host's 0 the kernel takes no capabilities
                os.setresuid(user, user, user)
            return action()

    ranges = [IdRange(0, OUTSIDE, COUNT)]
    userns = new_userns(ranges, ranges)
    try:
        return in_child(act)
    finally:
        os.close(userns)


@contextmanager
def _shifted_root(mounts: Sequence[Mount], userns: int) -> Iterator[int]:
    with locked(mounts):
        (mount,) = mounts
        root = open_mount(mount, userns)
        try:
            yield root
        finally:
            os.close(root)


def _fill(root: Path) -> None:
    for name in ("root", "setuid", "five", "beyond", "gone"):
        (root / name).write_text("data")
    (root / "setuid").chmod(0o4755)
    for name in ("dir", "users"):
        (root / name).mkdir()
    for name in ("dir/copied", "dir/old"):
        (root / name).write_text("data")
        os.chown(root / name, 5, 6)
    for name in ("five", "dir"):
        os.chown(root / name, 5, 6)
    os.chown(root / "users", 1000, 1000)
    os.chown(root / "beyond", COUNT + 5, COUNT + 5)


def _change_as_root() -> None:
    """Copy up, make, move, delete, give away: as root inside, who may do so only with what the map has."""
    assert _owners(Path())["five"] == (5, 6)
    assert _owners(Path())["beyond"] == (65534, 65534)
    with Path("dir/copied").open("a") as file:
        file.write(" and more")
    os.chown("five", 7, 8)
    Path("made").mkdir()
    Path("made/file").write_text("new")
    Path("link").symlink_to("five")
    Path("dir/old").rename("dir/moved")
    Path("gone").unlink()
    os.setxattr("made/file", "user.mine", b"1")
    assert _error(lambda: os.chown("five", COUNT + 1, -1)) == errno.EINVAL
    assert _error(lambda: Path("beyond").chmod(0o777)) in (errno.EPERM, errno.EOVERFLOW)
    assert _error(lambda: os.chown("beyond", 0, 0)) in (errno.EPERM, errno.EOVERFLOW)
    assert _error(lambda: os.mknod("device", stat.S_IFCHR | 0o666, os.makedev(1, 3))) == errno.EPERM
    assert _error(lambda: os.setxattr("made", "trusted.overlay.opaque", b"y")) == errno.EPERM


def _change_as_user() -> None:
    Path("users/file").write_text("mine")
    assert _error(lambda: Path("root").write_text("mine too")) == errno.EACCES
    assert _error(lambda: os.chown("users/file", 0, 0)) == errno.EPERM


def _owners(root: Path) -> dict[str, Owner]:
    paths = [root, *root.rglob("*")]
    return {str(path.relative_to(root)): (path.lstat().st_uid, path.lstat().st_gid) for path in paths}


def _error(action: Callable[[], object]) -> int:
    """Give the errno of the error that `action` ends with, 0 for none."""
    try:
        action()
    except OSError as error:
        return error.errno or -1
    return 0
