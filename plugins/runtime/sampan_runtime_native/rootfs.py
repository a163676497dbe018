"""The container's root file system, built by its first process inside a mount namespace that nobody else
sees.

The image is hostile, and so may be who writes into a shared volume meanwhile. So every place is resolved by
the kernel within the root (`openat2`, `RESOLVE_IN_ROOT`), and then used by descriptor: a mount is attached to
what was resolved, a path that is masked is the one that was looked at. What comes from the host is opened
before, by the driver (`open_sources`).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sampan.api.errors import Forbidden, InvalidArgument, System
from sampan.linux.files import (
    PROC_SUPER_MAGIC,
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    filesystem_type,
    is_null_device,
    openat2,
)
from sampan.linux.mounts import (
    MNT_DETACH,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    MS_REC,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
    Mount,
    MountOptions,
    apply_attributes,
    attach,
    mount_setattr,
    open_bind,
    open_filesystem,
    open_mount,
    parse_options,
    pivot_root,
    set_propagation,
    umount,
)
from sampan.linux.namespaces import new_userns
from sampan.linux.syscalls import AT_FDCWD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sampan.api.runtime import CreateRequest
    from sampan.linux.cgroups import Cgroup
    from sampan.linux.namespaces import IdMaps
    from sampan_runtime_native.plan import Device, Plan, PlannedMount

_IN_ROOT: Final = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_LINKS: Final = (
    ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx"),
)  # fmt: skip
_PROC_BINDS: Final = frozenset(
    f"/proc/{name}" for name in (
        "cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev", "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
    )
)  # fmt: skip
_MAX_LINKS: Final = 40
_SHOWS: Final = {"proc": "pid", "sysfs": "network", "mqueue": "IPC"}
"""What kind of namespace a file system shows."""


@dataclass(frozen=True, slots=True)
class UserNamespace:
    """A container's user namespace: a descriptor and its maps."""

    fd: int
    maps: IdMaps


@dataclass(frozen=True, slots=True)
class Sources:
    """Detached mounts that only the host's root can make, opened in the host's mount namespace.

    `binds`: index of the spec's mount → fd. `cgroups`: name in the container → fd. `roots` are the mounts of the root, as far as
    they are not left to the first process. `devices` is a tmpfs with the device nodes by index, or -1: whoever is in a user namespace
    can make none.
    """

    binds: Mapping[int, int]
    cgroups: Mapping[str, int]
    roots: tuple[int, ...]
    devices: int = -1

    @property
    def fds(self) -> tuple[int, ...]:
        """All descriptors."""
        return (*self.binds.values(), *self.cgroups.values(), *self.roots, *((self.devices,) if self.devices >= 0 else ()))


def open_sources(plan: Plan, cgroup: Cgroup, request: CreateRequest, user: UserNamespace | None) -> Sources:
    """Open what is bound from the host: the places named in the spec's mounts, the container's own cgroups, the root that the
    spec names if the request has none, and with a user namespace also the request's root and devices.

    A relative path is one from the bundle.

    Raises `InvalidArgument` for a source that isn't there, `OSError`.
    """
    binds: dict[int, int] = {}
    cgroups: dict[str, int] = {}
    roots: list[int] = []
    devices = -1
    try:
        for index, each in enumerate(plan.mounts):
            if each.is_bind:
                binds[index] = _open_bind(each, request.bundle, user)
            elif each.is_cgroup:
                cgroups = cgroups or _open_cgroups(cgroup)
        if not request.rootfs:
            roots.append(_open_source(os.path.join(request.bundle, plan.root), MountOptions(recursive=True)))  # noqa: PTH118
        elif user is not None:
            for root in request.rootfs:
                roots.append(open_mount(root, user.fd if parse_options(root.options).idmap else None))
        if user is not None:
            devices = _open_devices(plan.devices, user.maps)
    except BaseException:
        for fd in Sources(binds, cgroups, tuple(roots), devices).fds:
            os.close(fd)
        raise
    return Sources(binds, cgroups, tuple(roots), devices)


def _open_bind(each: PlannedMount, bundle: Path, user: UserNamespace | None) -> int:
    options = parse_options(each.options)
    source = os.path.join(bundle, each.source)  # noqa: PTH118, for which pathlib would take ten times as long
    if not options.idmap and not each.maps:
        return _open_source(source, options)
    if each.maps:
        userns = new_userns(each.maps.uids, each.maps.gids)
        try:
            return _open_source(source, options, userns)
        finally:
            os.close(userns)
    if user is None:
        raise InvalidArgument(
            f"mount {each.target}: option idmap without maps, in a container without a user namespace",
            remedy="give the mount uidMappings and gidMappings",
        )
    return _open_source(source, options, user.fd)


def _open_source(source: str, options: MountOptions, userns: int | None = None) -> int:
    try:
        return open_bind(AT_FDCWD, source, options, userns)
    except FileNotFoundError as error:
        raise InvalidArgument(
            f'invalid mount config for type "bind": bind source path does not exist: {source}'
        ) from error


def _open_devices(devices: Sequence[Device], maps: IdMaps) -> int:
    """Make the nodes as the host's root, whose owners are the container's, in a file system that nobody has mounted anywhere."""
    fd = open_filesystem("tmpfs", "devices", MountOptions(attr_set=MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, data=("mode=711",)))
    old = os.umask(0)
    try:
        for index, device in enumerate(devices):
            make_node(str(index), device, fd, maps)
    except BaseException:
        os.close(fd)
        raise
    finally:
        os.umask(old)
    return fd


def make_node(name: str, device: Device, directory: int, maps: IdMaps | None = None) -> None:
    """Make a device node, with the umask 0. Raises `FileExistsError`, `InvalidArgument`, `System`."""
    uid, gid = (device.uid, device.gid) if maps is None else (maps.uid(device.uid), maps.gid(device.gid))
    if min(uid, gid) < 0:
        raise InvalidArgument(f"device {device.path}: its owner {device.uid}:{device.gid} is not in the container's user namespace")
    try:
        os.mknod(name, device.mode, os.makedev(device.major, device.minor), dir_fd=directory)
    except FileExistsError:
        raise
    except OSError as error:
        raise System(f"make device {device.path}: {os.strerror(error.errno or 0)}") from error
    if uid or gid:
        os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)


def _open_cgroups(cgroup: Cgroup) -> dict[str, int]:
    opened: dict[str, int] = {}
    if cgroup.layout.version == "v2":
        return {"": open_bind(AT_FDCWD, cgroup.directory(), MountOptions())}
    for root in dict.fromkeys(cgroup.layout.v1.values()):
        opened[os.path.basename(root)] = open_bind(AT_FDCWD, root + cgroup.path, MountOptions())  # noqa: PTH119
    return opened


class RootBuilder:
    """Builds the root over this process's own root directory, or another for whoever has to see it; `enter` makes it this
    process's root.

    `maps` are those of the user namespace that the process is in, None if it is the host's.
    """

    def __init__(self, plan: Plan, sources: Sources, maps: IdMaps | None, place: str = "/") -> None:
        """Touches nothing."""
        self._plan = plan
        self._sources = sources
        self._maps = maps
        self._place_of_root = place
        self._readonly_later: list[int] = []
        self.fd = -1
        """The root's descriptor, once `mount_root` has run."""

    def mount_root(self, mounts: Sequence[Mount]) -> None:
        """Leave the host's propagation and mount the root file system.

        Its place is "/": who is in a user namespace may not be able to reach any other.
        """
        set_propagation("/", MS_SLAVE | MS_REC)
        if not mounts:
            self._place_root(self._sources.roots[0], "")
        for index, each in enumerate(mounts):
            self._place_root(self._sources.roots[index] if self._sources.roots else open_mount(each), each.target)

    def _place_root(self, fd: int, target: str) -> None:
        """Attach a mount of the root, at the top or at `target` within."""
        if not target:
            attach(fd, self._place_of_root)
            self._take_root(fd)
        else:
            place = openat2(self.fd, target, os.O_PATH, resolve=_IN_ROOT)
            try:
                attach(fd, place)
            finally:
                os.close(place)
        # A slave's master is where the root is bound from: what the host mounts there arrives.
        mount_setattr(fd, propagation=MS_SLAVE if self._plan.root_propagation == MS_SLAVE else MS_PRIVATE, recursive=True)
        os.close(fd)

    def _take_root(self, fd: int) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = openat2(fd, ".", os.O_PATH | os.O_DIRECTORY)

    def mount_all(self) -> None:
        """Make the spec's mounts in order."""
        for index, each in enumerate(self._plan.mounts):
            try:
                if each.is_cgroup:
                    self._mount_cgroups(each)
                elif each.remount:
                    self._change_mount(each)
                elif each.is_bind:
                    self._mount_bind(each, self._sources.binds[index])
                else:
                    self._mount_filesystem(each)
            except OSError as error:
                cause = error.strerror or os.strerror(error.errno or 0)
                what = "remount" if each.remount else f"mount {each.source or each.type} at"
                raise System(f"{what} {each.target}: {cause}", remedy=self._remedy(each, error)) from error

    def _remedy(self, each: PlannedMount, error: OSError) -> str:
        if each.is_bind and error.errno in (errno.EINVAL, errno.ENOTDIR):
            return "is one of the two a directory and the other a file?"
        owned = _SHOWS.get(each.type)
        if self._maps is None or owned is None or each.is_bind or error.errno != errno.EPERM:
            return ""
        return f"in a user namespace it must be of a {owned} namespace that this one owns: give the container its own"

    def _mount_bind(self, each: PlannedMount, fd: int) -> None:
        directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        with self._place(each.target, directory=directory) as place:
            if os.path.normpath(each.target) not in _PROC_BINDS:
                _spare_proc(place, each)
            attach(fd, place)
        _propagate(fd, parse_options(each.options).propagation or (MS_PRIVATE | MS_REC,))

    def _change_mount(self, each: PlannedMount) -> None:
        """Change the attributes that are named of what is mounted at its place, and no other's: no link is followed."""
        options = parse_options(each.options)
        fd = openat2(self.fd, each.target, os.O_PATH, resolve=_IN_ROOT | RESOLVE_NO_SYMLINKS)
        try:
            apply_attributes(fd, options)
            _propagate(fd, options.propagation)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise InvalidArgument(f"remount {each.target}: nothing is mounted there that could be changed") from error
            raise
        finally:
            os.close(fd)

    def _mount_filesystem(self, each: PlannedMount) -> None:
        options = self._without_lost_group(each, parse_options(each.options))
        if each.type == "tmpfs":
            self._mount_tmpfs(each, options)
            return
        plain = RESOLVE_NO_SYMLINKS if each.type in ("proc", "sysfs") else 0
        fd = open_filesystem(each.type, each.source or each.type, options)
        try:
            with self._place(each.target, directory=True, resolve=plain) as place:
                if each.type != "proc":
                    _spare_proc(place, each)
                attach(fd, place)
            _propagate(fd, options.propagation)
        finally:
            os.close(fd)

    def _mount_tmpfs(self, each: PlannedMount, options: MountOptions) -> None:
        """Mount one with the mode of the directory in its place, if there is one, unless told, and what is in that if it is to be copied.
        It becomes read-only when all is laid out: other mounts may have their places in it.
        """
        told = any(option.startswith("mode=") for option in options.data)
        made = not self._is_there(each.target)
        with self._place(each.target, directory=True) as place:
            _spare_proc(place, each)
            mode = () if told or made else (f"mode={stat.S_IMODE(os.fstat(place).st_mode):o}",)
            writable = replace(
                options, data=(*mode, *options.data), attr_set=options.attributes & ~MOUNT_ATTR_RDONLY, tree_set=0
            )  # fmt: skip
            fd = open_filesystem("tmpfs", each.source or "tmpfs", writable)
            try:
                if each.copy_up:
                    _copy_up(place, fd, keep_mode=told)
                attach(fd, place)
                _propagate(fd, options.propagation)
                if options.attributes & MOUNT_ATTR_RDONLY:
                    self._readonly_later.append(os.dup(fd))
            finally:
                os.close(fd)

    def _without_lost_group(self, each: PlannedMount, options: MountOptions) -> MountOptions:
        """Leave out the group of terminals where the user namespace does not have it: 5 is every spec's, and no reason to fail."""
        if self._maps is None or each.type != "devpts":
            return options
        maps = self._maps
        kept = tuple(each for each in options.data if not each.startswith("gid=") or maps.gid(int(each[4:])) >= 0)
        return replace(options, data=kept)

    def _mount_cgroups(self, each: PlannedMount) -> None:
        """Show the container its own cgroups: v2 as the tree itself, v1 as a tmpfs with a mount per
        hierarchy."""
        options = parse_options(each.options)
        attributes = options.attributes | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
        hierarchies = self._sources.cgroups
        with self._place(each.target, directory=True) as place:
            if "" in hierarchies:
                mount_setattr(hierarchies[""], attributes, propagation=MS_PRIVATE)
                attach(hierarchies[""], place)
                _propagate(hierarchies[""], options.propagation)
                return
            tmpfs = open_filesystem(
                "tmpfs", "cgroup", MountOptions(attr_set=attributes & ~MOUNT_ATTR_RDONLY, data=("mode=755",))
            )
            try:
                attach(tmpfs, place)
                for name, fd in hierarchies.items():
                    os.mkdir(name, 0o755, dir_fd=tmpfs)  # new and ours alone: the name leads nowhere else
                    attach(fd, name, tmpfs)
                # One call for the whole tree, not two for each of ten mounts.
                mount_setattr(tmpfs, attributes, propagation=MS_PRIVATE, recursive=True)
                _propagate(tmpfs, options.propagation)
            finally:
                os.close(tmpfs)

    def make_devices(self) -> None:
        """Lay /dev as Docker does; nothing if the spec binds the host's."""
        if any(each.is_bind and os.path.normpath(each.target) == "/dev" for each in self._plan.mounts):
            return
        old = os.umask(0)
        try:
            if self._sources.devices < 0:
                for device in self._plan.devices:
                    self._make_device(device)
            else:
                self._show_devices(self._sources.devices)
            with self._place("/dev", directory=True) as dev:
                for name, target in _LINKS:
                    try:
                        os.symlink(target, name, dir_fd=dev)
                    except FileExistsError:
                        continue
        finally:
            os.umask(old)

    def _make_device(self, device: Device) -> None:
        parent, _, name = device.path.rpartition("/")
        with self._place(parent or "/", directory=True) as directory:
            try:
                make_node(name, device, directory)
            except FileExistsError:
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_IFMT(found.st_mode) != stat.S_IFMT(device.mode) or found.st_rdev != os.makedev(device.major, device.minor):
                    raise Forbidden(f"device {device.path}: the image has something else there") from None

    def _show_devices(self, made: int) -> None:
        """Bind each node that the driver has made to its place. They are this namespace's for as long as that takes: only then can
        parts of them be bound.
        """
        attach(made, self.fd)
        for index, device in enumerate(self._plan.devices):
            node = open_bind(made, str(index), MountOptions())
            try:
                with self._place(device.path, directory=False) as place:
                    if stat.S_ISDIR(os.fstat(place).st_mode):
                        raise Forbidden(f"device {device.path}: the image has a directory there")
                    attach(node, place)
            finally:
                os.close(node)
        os.fchdir(made)
        umount(".", MNT_DETACH)
        os.close(made)

    def mount_console(self, slave: int) -> None:
        """Show the terminal at /dev/console, on a file that is made new: what the image has there is not
        used."""
        with self._place("/dev", directory=True) as dev:
            try:
                os.unlink("console", dir_fd=dev)
            except FileNotFoundError:
                pass
            flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open("console", flags, 0o666, dir_fd=dev))
            place = os.open("console", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dev)
            try:
                mount = open_bind(slave, "", MountOptions())
                try:
                    attach(mount, place)
                finally:
                    os.close(mount)
            finally:
                os.close(place)

    def protect(self) -> None:
        """Make the spec's paths read-only or hide them, then the root read-only if asked for."""
        for fd in self._readonly_later:
            mount_setattr(fd, MOUNT_ATTR_RDONLY)
            os.close(fd)
        for path in self._plan.readonly:
            self._over(path, lambda fd: open_bind(fd, "", MountOptions(recursive=True)), MOUNT_ATTR_RDONLY)
        null = self._null_device() if self._plan.masked else -1
        empty = -1
        try:
            for path in self._plan.masked:
                empty = self._mask(path, null, empty)
        finally:
            for fd in (null, empty):
                if fd >= 0:
                    os.close(fd)
        if self._plan.root_readonly:
            mount_setattr(self.fd, MOUNT_ATTR_RDONLY)

    def _mask(self, path: str, null: int, empty: int) -> int:
        """Hide one path: a file by /dev/null, a directory by an empty read-only one, made once and cloned."""

        def cover(fd: int) -> int:
            nonlocal empty
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                return open_bind(null, "", MountOptions())
            if empty >= 0:
                return open_bind(empty, "", MountOptions())
            options = MountOptions(attr_set=MOUNT_ATTR_RDONLY, data=("nr_blocks=1", "nr_inodes=1"))
            empty = open_filesystem("tmpfs", "tmpfs", options)
            return os.dup(empty)

        self._over(path, cover, 0)
        return empty

    def _over(self, path: str, cover: Callable[[int], int], attributes: int) -> None:
        try:
            place = openat2(self.fd, path, os.O_PATH, resolve=_IN_ROOT)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            fd = cover(place)
            try:
                if attributes:
                    mount_setattr(fd, attributes)
                attach(fd, place)
            finally:
                os.close(fd)
        finally:
            os.close(place)

    def _null_device(self) -> int:
        """Open the container's /dev/null and make sure that it is the null device, whatever the image
        holds."""
        fd = openat2(self.fd, "dev/null", os.O_PATH | os.O_NOFOLLOW, resolve=_IN_ROOT)
        found = os.fstat(fd)
        if not is_null_device(found):
            os.close(fd)
            raise Forbidden("masked paths: /dev/null of the container is not the null device")
        return fd

    def enter(self) -> None:
        """Make the root this process's and let go of the host's."""
        old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fchdir(self.fd)
        pivot_root(".", ".")
        os.fchdir(old)
        os.close(old)
        umount(".", MNT_DETACH)
        os.chdir("/")
        if self._plan.root_propagation & (MS_SHARED | MS_UNBINDABLE):
            set_propagation("/", self._plan.root_propagation)  # not before: pivot_root takes no shared mount

    def _is_there(self, path: str) -> bool:
        try:
            os.close(openat2(self.fd, path, os.O_PATH, resolve=_IN_ROOT))
        except OSError:
            return False
        return True

    @contextmanager
    def _place(self, path: str, *, directory: bool, resolve: int = 0) -> Iterator[int]:
        """Open the place `path` in the root, made if it is missing."""
        try:
            fd = openat2(self.fd, path, os.O_PATH, resolve=_IN_ROOT | resolve)
        except FileNotFoundError:
            fd = make_place(self.fd, path, directory=directory, resolve=resolve)
        except OSError as error:
            if error.errno == errno.ELOOP and resolve & RESOLVE_NO_SYMLINKS:
                raise Forbidden(f"{path} of the image is or passes a symlink: it must be a plain directory") from error
            raise
        try:
            if path != "/" and os.path.samestat(os.fstat(fd), os.fstat(self.fd)):
                raise Forbidden(f"{path} of the image leads to the root itself: nothing is mounted there")
            yield fd
        finally:
            os.close(fd)


def _propagate(fd: int, wanted: Sequence[int]) -> None:
    """Set how mount events pass at an attached mount: one flag after the other, as mount(8) would."""
    for flags in wanted:
        mount_setattr(fd, propagation=flags & ~MS_REC, recursive=bool(flags & MS_REC))


def _copy_up(place: int, tmpfs: int, *, keep_mode: bool) -> None:
    """Fill a tmpfs with what is in the directory `place` of the root."""
    from sampan.linux.copying import copy_contents  # few containers ask for it

    mode = stat.S_IMODE(os.fstat(tmpfs).st_mode)
    copy_contents(place, tmpfs)
    if keep_mode:
        os.chmod(f"/proc/self/fd/{tmpfs}", mode)


def _spare_proc(place: int, each: PlannedMount) -> None:
    """Refuse to cover the kernel's files: who reads them, in the container or about it, would read the image's (CVE-2019-19921)."""
    if filesystem_type(place) == PROC_SUPER_MAGIC:
        kind = "bind" if each.is_bind else each.type
        raise Forbidden(f"mount {each.target}: a {kind} over a part of /proc is not allowed")


def make_place(root: int, path: str, *, directory: bool, resolve: int = 0) -> int:
    """Make the directory or empty file `path` within `root`, with the directories on the way, and open it
    `O_PATH`.

    A symlink on the way that leads nowhere is followed within the root, and what it names is made. Raises
    `OSError`.
    """
    pending = [part for part in path.split("/") if part and part != "."]
    if directory and len(pending) > 1:
        # Mostly the last part alone is missing (/dev/pts of a new /dev): this costs half as many calls.
        made = _make_last(root, pending, resolve)
        if made >= 0:
            return made
    done = "."
    links = 0
    while pending:
        part = pending.pop(0)
        current = f"{done}/{part}"
        try:
            os.close(openat2(root, current, os.O_PATH, resolve=_IN_ROOT | resolve))
            done = current
            continue
        except FileNotFoundError:
            pass
        parent = openat2(root, done, os.O_PATH | os.O_DIRECTORY, resolve=_IN_ROOT | resolve)
        try:
            if pending or directory:
                os.mkdir(part, 0o755, dir_fd=parent)
            else:
                flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(part, flags, 0o644, dir_fd=parent))
            done = current
        except FileExistsError:
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
            target = os.readlink(part, dir_fd=parent)  # EINVAL: it appeared meanwhile and is no link; then we fail
            pending = [each for each in target.split("/") if each and each != "."] + pending
            done = "." if target.startswith("/") else done
        finally:
            os.close(parent)
    return openat2(root, done, os.O_PATH, resolve=_IN_ROOT | resolve)


def _make_last(root: int, parts: Sequence[str], resolve: int) -> int:
    """Make the last of `parts` where the others are there, and open it; -1 where it is not as simple as
    that."""
    try:
        parent = openat2(root, "/".join(parts[:-1]), os.O_PATH | os.O_DIRECTORY, resolve=_IN_ROOT | resolve)
    except OSError:
        return -1
    try:
        os.mkdir(parts[-1], 0o755, dir_fd=parent)
    except OSError:
        return -1
    finally:
        os.close(parent)
    return openat2(root, "/".join(parts), os.O_PATH, resolve=_IN_ROOT | resolve)


def write_proc(proc: int, name: str, value: str) -> None:
    """Write a file of the detached procfs `proc`: nothing in any mount namespace can stand in its way."""
    strict = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
    fd = openat2(proc, name, os.O_WRONLY, resolve=strict)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def write_sysctls(proc: int, sysctls: Sequence[tuple[str, str]]) -> None:
    """Set kernel parameters of the namespaces this process is in. Raises `InvalidArgument`, `System`."""
    for name, value in sysctls:
        first = min((name.find(each) for each in "./" if each in name), default=-1)
        path = name if first >= 0 and name[first] == "/" else name.translate({46: 47, 47: 46})
        try:
            write_proc(proc, f"sys/{path}", value)
        except FileNotFoundError as error:
            raise InvalidArgument(f"sysctl {name!r} does not exist in this kernel") from error
        except OSError as error:
            raise System(f"set sysctl {name} to {value!r}: {os.strerror(error.errno or 0)}") from error

