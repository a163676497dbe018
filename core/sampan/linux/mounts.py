"""Mounts as data, and the kernel's new mount interface: a mount is a descriptor first and gets its place
later.

Sources: `mount_setattr(2)`, `include/uapi/linux/mount.h`, the man pages of fsopen, fsmount, open_tree and
move_mount, `proc(5)` for mountinfo. A detached mount vanishes with its last descriptor, so nothing is left
after a crash.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sampan.linux.files import RESOLVE_IN_ROOT, openat2
from sampan.linux.syscalls import AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE, syscall

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_MOVE: Final = 8192
MS_REC: Final = 16384
MS_UNBINDABLE: Final = 1 << 17
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MS_SHARED: Final = 1 << 20

MNT_FORCE: Final = 1
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

MOUNT_ATTR_RDONLY: Final = 0x01
MOUNT_ATTR_NOSUID: Final = 0x02
MOUNT_ATTR_NODEV: Final = 0x04
MOUNT_ATTR_NOEXEC: Final = 0x08
MOUNT_ATTR_RELATIME: Final = 0x00
MOUNT_ATTR_NOATIME: Final = 0x10
MOUNT_ATTR_STRICTATIME: Final = 0x20
MOUNT_ATTR__ATIME: Final = 0x70
MOUNT_ATTR_NODIRATIME: Final = 0x80
MOUNT_ATTR_IDMAP: Final = 0x00100000
MOUNT_ATTR_NOSYMFOLLOW: Final = 0x00200000

OPEN_TREE_CLONE: Final = 1
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x04
MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
FSOPEN_CLOEXEC: Final = 1
FSMOUNT_CLOEXEC: Final = 1
FSCONFIG_SET_FLAG: Final = 0
FSCONFIG_SET_STRING: Final = 1
FSCONFIG_CMD_CREATE: Final = 6

_mount_attr = struct.Struct("=QQQQ")
"""`struct mount_attr`: attr_set, attr_clr, propagation, userns_fd."""

_SET_ATTR = {
    "ro": MOUNT_ATTR_RDONLY, "nosuid": MOUNT_ATTR_NOSUID, "nodev": MOUNT_ATTR_NODEV,
    "noexec": MOUNT_ATTR_NOEXEC, "noatime": MOUNT_ATTR_NOATIME, "strictatime": MOUNT_ATTR_STRICTATIME,
    "relatime": MOUNT_ATTR_RELATIME, "nodiratime": MOUNT_ATTR_NODIRATIME,
    "nosymfollow": MOUNT_ATTR_NOSYMFOLLOW,
}  # fmt: skip
_CLEAR_ATTR = {
    "rw": MOUNT_ATTR_RDONLY, "suid": MOUNT_ATTR_NOSUID, "dev": MOUNT_ATTR_NODEV, "exec": MOUNT_ATTR_NOEXEC,
    "diratime": MOUNT_ATTR_NODIRATIME, "symfollow": MOUNT_ATTR_NOSYMFOLLOW,
}  # fmt: skip
_ATTRIBUTES = frozenset({*_SET_ATTR, *_CLEAR_ATTR, "atime", "nostrictatime"})
_TIME_OPTIONS = frozenset({"noatime", "strictatime", "relatime"})
_RESET_TIME = {"atime": MOUNT_ATTR_NOATIME, "nostrictatime": MOUNT_ATTR_STRICTATIME}
"""What these take back; relatime, the kernel's own way, is then left."""
_PROPAGATION = {
    "private": MS_PRIVATE, "rprivate": MS_PRIVATE | MS_REC, "slave": MS_SLAVE, "rslave": MS_SLAVE | MS_REC,
    "shared": MS_SHARED, "rshared": MS_SHARED | MS_REC, "unbindable": MS_UNBINDABLE,
    "runbindable": MS_UNBINDABLE | MS_REC,
}  # fmt: skip
_IGNORED = frozenset(
    {"defaults", "async", "nofail", "auto", "noauto", "norelatime", "rnorelatime", "silent", "loud", "noiversion", "nomand"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount, to be made by whoever has the namespace for it.

    `type` is "bind" or a file system's name. `options` are mount(8)'s: for a bind `bind` or `rbind`, then
    `ro`, `nosuid` …, with a leading `r` (`rro`) for the whole tree, and a propagation (`rslave`); for a file
    system also its own, as `key=value` or flags, in order, repeated where it takes that (`lowerdir+=PATH` of
    overlay). `target` is relative to the root being built; "" is the root itself. `lock` names a file that whoever makes
    the mount holds with flock(2), exclusively, for as long as the mount is there: it may exist in one place only.
    """

    type: str
    source: str
    options: tuple[str, ...] = ()
    target: str = ""
    lock: str = ""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Options sorted by who takes them: attributes of the mount, of the whole tree, propagation, the file
    system's own. `idmap` asks for shifted owners, of what is mounted below as well with `idmap_recursive`."""

    attr_set: int = 0
    attr_clear: int = 0
    tree_set: int = 0
    tree_clear: int = 0
    propagation: tuple[int, ...] = ()
    bind: bool = False
    recursive: bool = False
    idmap: bool = False
    idmap_recursive: bool = False
    data: tuple[str, ...] = ()

    @property
    def attributes(self) -> int:
        """What a new mount has, which is its own tree."""
        return self.tree_set & ~self.attr_clear | self.attr_set


@dataclass(frozen=True, slots=True)
class MountInfo:
    """A line of /proc/PID/mountinfo. `tags` are the propagation fields (`shared:1`, `master:2`)."""

    id: int
    parent: int
    device: tuple[int, int]
    root: str
    target: str
    options: tuple[str, ...]
    tags: tuple[str, ...]
    type: str
    source: str
    super_options: tuple[str, ...]


def parse_options(options: Sequence[str]) -> MountOptions:
    """Sort mount options; later ones win over earlier ones. Never fails: what is not known is the file
    system's."""
    masks = {"set": 0, "clear": 0, "tree_set": 0, "tree_clear": 0}

    def note(option: str, prefix: str) -> None:
        if option in _RESET_TIME:
            if masks[prefix + "set"] & MOUNT_ATTR__ATIME in (0, _RESET_TIME[option]):
                masks[prefix + "set"] &= ~MOUNT_ATTR__ATIME
                masks[prefix + "clear"] |= MOUNT_ATTR__ATIME
            return
        if option in _SET_ATTR:
            bit, to, other = _SET_ATTR[option], prefix + "set", prefix + "clear"
            if option in _TIME_OPTIONS:  # atime is one field of several values: cleared whole, then set
                masks[to] = masks[to] & ~MOUNT_ATTR__ATIME | bit
                masks[other] |= MOUNT_ATTR__ATIME
                return
        else:
            bit, to, other = _CLEAR_ATTR[option], prefix + "clear", prefix + "set"
        masks[to] |= bit
        masks[other] &= ~bit

    propagation: list[int] = []
    data: list[str] = []
    bind = recursive = idmap = idmap_recursive = False
    for option in options:
        if option in ("bind", "rbind"):
            bind, recursive = True, recursive or option == "rbind"
        elif option in ("idmap", "ridmap"):
            idmap, idmap_recursive = True, option == "ridmap"
        elif option in _PROPAGATION:
            propagation.append(_PROPAGATION[option])
        elif option in _ATTRIBUTES:
            note(option, "")
        elif option[:1] == "r" and option[1:] in _ATTRIBUTES:
            note(option[1:], "tree_")
        elif option and option not in _IGNORED:
            data.append(option)
    return MountOptions(
        masks["set"], masks["clear"], masks["tree_set"], masks["tree_clear"],
        tuple(propagation), bind, recursive, idmap, idmap_recursive, tuple(data),
    )  # fmt: skip


def known_options() -> frozenset[str]:
    """Give the options that `parse_options` reads itself; others are a file system's own."""
    recursive = {f"r{option}" for option in _ATTRIBUTES}
    return frozenset({"bind", "rbind", "idmap", "ridmap", *_PROPAGATION, *_ATTRIBUTES, *recursive, *_IGNORED})


def open_mount(m: Mount, userns: int | None = None) -> int:
    """Make the mount, attached nowhere, and give its descriptor. Raises `OSError` that names source and
    cause.

    `userns` is a user namespace into which owners are shifted: what its map calls 0 belongs to 0 on disk (bind mounts and
    overlays, where the file system can; EINVAL). Propagation options are left out: they count only once the mount has
    its place (`set_propagation`). `Mount.lock` is the caller's to hold (`locked`).
    """
    options = parse_options(m.options)
    if m.type == "bind" or options.bind:
        return open_bind(AT_FDCWD, m.source, options, userns)
    if m.type == "overlay":
        from sampan.linux.overlay import open_overlay  # which stands on this module

        return open_overlay(m.source, options, userns)
    if userns is not None:
        raise OSError(errno.EINVAL, f"mount {m.type} with shifted owners: only bind mounts and overlays can")
    return open_filesystem(m.type, m.source, options)


@contextmanager
def open_root(mounts: Sequence[Mount]) -> Iterator[int]:
    """Show a root that is one mount, attached nowhere; give a descriptor of its directory. Holds the mount's lock.

    Raises `OSError`; EBUSY if somebody else has it mounted.
    """
    if len(mounts) != 1:
        raise OSError(errno.EOPNOTSUPP, f"a root of {len(mounts)} mounts can't be shown without a place")
    with locked(mounts):
        fd = open_mount(mounts[0])  # kept: with it the kernel takes the mount apart
        try:
            directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            try:
                yield directory
            finally:
                os.close(directory)
        finally:
            os.close(fd)


@contextmanager
def locked(mounts: Sequence[Mount]) -> Iterator[None]:
    """Hold the locks of mounts while they are there. Raises `OSError` as `lock_all`."""
    locks = lock_all(mounts)
    try:
        yield
    finally:
        unlock_all(locks)


def lock_all(mounts: Sequence[Mount]) -> tuple[int, ...]:
    """Take the locks of mounts that have one; give descriptors that hold them until `unlock_all`, or the end of the process.

    Raises `OSError`: EBUSY if another process, or another part of this one, holds one.
    """
    locks: list[int] = []
    try:
        for path in filter(None, (m.lock for m in mounts)):
            locks.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
            try:
                fcntl.flock(locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OSError(errno.EBUSY, "it is mounted by another container or process", path) from error
    except BaseException:
        unlock_all(locks)
        raise
    return tuple(locks)


def unlock_all(locks: Sequence[int]) -> None:
    """Let go of locks, also where a child that was forked meanwhile has copies of the descriptors."""
    for lock in locks:
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def open_bind(dirfd: int, source: str, options: MountOptions, userns: int | None = None) -> int:
    """Clone the mount at `source` (of `dirfd` itself when empty) with the attributes of `options`, owners shifted into `userns`."""
    flags = (
        OPEN_TREE_CLONE | os.O_CLOEXEC | (AT_RECURSIVE if options.recursive else 0) | (0 if source else AT_EMPTY_PATH)
    )
    try:
        fd = syscall("open_tree", dirfd, source, flags)
    except OSError as error:
        raise OSError(error.errno, f"bind {source or dirfd}: {os.strerror(error.errno or 0)}", source) from error
    try:
        apply_attributes(fd, options)
        if userns is not None:
            _shift_owners(fd, source, userns, recursive=options.recursive and (options.idmap_recursive or not options.idmap))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _shift_owners(fd: int, source: str, userns: int, *, recursive: bool) -> None:
    try:
        mount_setattr(fd, MOUNT_ATTR_IDMAP, userns=userns, recursive=recursive)
    except OSError as error:
        cause = "its file system has no shifted owners" if error.errno == errno.EINVAL else os.strerror(error.errno or 0)
        raise OSError(error.errno, f"bind {source} with shifted owners: {cause}") from error


def apply_attributes(fd: int, options: MountOptions) -> None:
    """Give the mount `fd` the attributes in `options`, the tree's first."""
    if options.tree_set or options.tree_clear:
        mount_setattr(fd, options.tree_set, options.tree_clear, recursive=True)
    if options.attr_set or options.attr_clear:
        mount_setattr(fd, options.attr_set, options.attr_clear)


def open_filesystem(fstype: str, source: str, options: MountOptions) -> int:
    """Make a mount of a file system of type `fstype`. The kernel's own words on a bad option are in the
    error."""
    what = f"mount {fstype}" + (f" of {source}" if source and source != fstype else "")
    try:
        context = syscall("fsopen", fstype, FSOPEN_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, f"{what}: {os.strerror(error.errno or 0)}") from error
    option = ""
    try:
        if source:
            syscall("fsconfig", context, FSCONFIG_SET_STRING, b"source", source, 0)
        for option in options.data:
            key, equals, value = option.partition("=")
            if equals:
                syscall("fsconfig", context, FSCONFIG_SET_STRING, key, value, 0)
            else:
                syscall("fsconfig", context, FSCONFIG_SET_FLAG, key, None, 0)
        option = ""
        syscall("fsconfig", context, FSCONFIG_CMD_CREATE, None, None, 0)
        return syscall("fsmount", context, FSMOUNT_CLOEXEC, options.attributes)
    except OSError as error:
        log = _context_log(context)
        cause = os.strerror(error.errno or 0) + (f" ({log})" if log else "")
        raise OSError(error.errno, f"{what}{option and f', option {option}'}: {cause}") from error
    finally:
        os.close(context)


def attach(fd: int, target: str | Path | int, dirfd: int = AT_FDCWD) -> None:
    """Give the detached mount `fd` its place; an int is an `O_PATH` descriptor, a relative path is one from
    `dirfd`. A symlink at the end is not followed."""
    if isinstance(target, int):
        syscall("move_mount", fd, b"", target, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
    else:
        syscall("move_mount", fd, b"", dirfd, target, MOVE_MOUNT_F_EMPTY_PATH)


def mount_all(mounts: Sequence[Mount], target: Path) -> None:
    """Make the mounts in order below `target`, in the caller's mount namespace; on an error undo those
    made."""
    made: list[Path] = []
    try:
        for m in mounts:
            fd = open_mount(m)
            try:
                place = target / m.target if m.target else target
                if m.target:
                    _attach_below(fd, target, m.target)
                else:
                    attach(fd, target)
                made.append(place)
                for flags in parse_options(m.options).propagation:
                    set_propagation(place, flags)
            finally:
                os.close(fd)
    except BaseException:
        for place in reversed(made):
            umount(place, MNT_DETACH | UMOUNT_NOFOLLOW)
        raise


def _attach_below(fd: int, root: Path, target: str) -> None:
    rootfd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        place = openat2(rootfd, target, os.O_PATH, resolve=RESOLVE_IN_ROOT)
    finally:
        os.close(rootfd)
    try:
        attach(fd, place)
    finally:
        os.close(place)


def umount(target: str | Path, flags: int = 0) -> None:
    """Take the topmost mount off `target`. Raises `OSError` (EINVAL: nothing is mounted there; EBUSY)."""
    try:
        syscall("umount2", target, flags)
    except OSError as error:
        error.filename = os.fspath(target)
        raise


def mount(source: str | None, target: str | Path, fstype: str | None, flags: int = 0, data: str | None = None) -> None:
    """Call mount(2) as it is."""
    try:
        syscall("mount", source, target, fstype, flags, data)
    except OSError as error:
        error.filename = os.fspath(target)
        raise


def mount_setattr(
    fd: int,
    attr_set: int = 0,
    attr_clear: int = 0,
    *,
    propagation: int = 0,
    userns: int = 0,
    recursive: bool = False,
) -> None:
    """Change attributes of the mount `fd`. A value of the atime field is set only with that field cleared as
    well."""
    if attr_set & MOUNT_ATTR__ATIME:
        attr_clear |= MOUNT_ATTR__ATIME
    attr = _mount_attr.pack(attr_set, attr_clear, propagation, userns)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall("mount_setattr", fd, b"", flags, attr, len(attr))


def pivot_root(new_root: str, put_old: str) -> None:
    """Make `new_root` the root of this mount namespace and move the old one to `put_old`; "." and "." stack
    them."""
    syscall("pivot_root", new_root, put_old)


def set_propagation(path: str | Path, flags: int) -> None:
    """Set how mount events pass at the mount `path`: `MS_PRIVATE`, `MS_SLAVE`, … with `MS_REC` for the
    tree."""
    mount(None, path, None, flags)


def parse_mountinfo(pid: int | str = "self") -> list[MountInfo]:
    """Read the mounts that the process `pid` sees, in the kernel's order (a later line lies over an earlier
    one)."""
    text = Path(f"/proc/{pid}/mountinfo").read_bytes().decode("utf-8", "surrogateescape")
    return [_parse_mountinfo_line(line) for line in text.splitlines()]


def _parse_mountinfo_line(line: str) -> MountInfo:
    left, _, right = line.partition(" - ")
    mount_id, parent, device, root, target, options, *tags = left.split(" ")
    fstype, source, super_options = right.split(" ", 2)
    major, _, minor = device.partition(":")
    return MountInfo(
        int(mount_id), int(parent), (int(major), int(minor)), _unescape(root), _unescape(target),
        tuple(options.split(",")), tuple(tags), _unescape(fstype), _unescape(source),
        tuple(super_options.split(",")),
    )  # fmt: skip


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\043", "#"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def _context_log(context: int) -> str:
    lines: list[str] = []
    while True:
        try:
            lines.append(os.read(context, 4096).decode("utf-8", "replace").strip()[2:])
        except OSError as error:
            if error.errno == errno.ENODATA:
                return "; ".join(lines)
            return "; ".join([*lines, os.strerror(error.errno or 0)])
