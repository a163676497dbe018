"""Overlay mounts on kernels of any age, and with shifted owners.

A `Mount` names each layer with an option of its own, `lowerdir+=PATH`, topmost first. Linux takes that as it is since 6.8,
values of up to 255 bytes. Otherwise the layers go into the one page of options of mount(2), with short
paths from the directory that they have in common. And where owners are shifted, each layer is: the kernel refuses it for an overlay
as a whole.

Both need a mount namespace for a moment: a thread takes a copy, mounts in there, and gives a clone of the mount out, attached
nowhere. What the thread mounts, over the layers themselves, is seen by nobody and goes with it.

Source: the kernel's Documentation/filesystems/overlayfs.rst; ovl_next_opt, ovl_unescape and ovl_parse_layer in fs/overlayfs.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sampan.linux import capabilities, mounts
from sampan.linux.mounts import MountOptions
from sampan.linux.namespaces import CLONE_NEWNS, in_thread, unshare
from sampan.linux.syscalls import AT_FDCWD, libc, syscall

_PAGE = os.sysconf("SC_PAGE_SIZE") - 1
"""Bytes of options that mount(2) takes."""

_VALUE = 255
"""Bytes of a value that fsconfig(2) takes."""

_NOBODY = 65534
"""What the kernel shows for an id that a map does not have."""


@dataclass(frozen=True, slots=True)
class Stack:
    """The layers of an overlay by path, topmost first, and its other options. Without an upper layer `upper` and `work` are ""."""

    lower: tuple[str, ...]
    upper: str
    work: str
    rest: tuple[str, ...]

    @classmethod
    def parse(cls, data: tuple[str, ...]) -> Stack:
        """Sort the options of an overlay."""
        lower: list[str] = []
        rest: list[str] = []
        writable = {"upperdir": "", "workdir": ""}
        for option in data:
            key, _, value = option.partition("=")
            if key == "lowerdir+":
                lower.append(value)
            elif key in writable:
                writable[key] = value
            else:
                rest.append(option)
        return cls(tuple(lower), writable["upperdir"], writable["workdir"], tuple(rest))

    @property
    def paths(self) -> tuple[str, ...]:
        """All directories that it names."""
        return (*self.lower, *filter(None, (self.upper, self.work)))


def open_overlay(source: str, options: MountOptions, userns: int | None = None) -> int:
    """Make an overlay, attached nowhere, and give its descriptor. Raises `OSError`.

    With `userns`, a user namespace, owners on disk are those that its map has inside.
    """
    stack = Stack.parse(options.data)
    if not stack.lower:
        if userns is not None:
            raise OSError(errno.EINVAL, "mount overlay with shifted owners: its layers must be given as lowerdir+")
        return mounts.open_filesystem("overlay", source, options)
    escaped = dataclasses.replace(options, data=tuple(map(_escape, options.data)))
    each = takes_each_layer() and all(len(os.fsencode(option.partition("=")[2])) <= _VALUE for option in escaped.data)
    if each and userns is None:
        return mounts.open_filesystem("overlay", source, escaped)

    def make() -> int:
        unshare(CLONE_NEWNS)
        mounts.set_propagation("/", mounts.MS_SLAVE | mounts.MS_REC)
        if userns is not None:
            _shift_owners(stack, userns)
        return mounts.open_filesystem("overlay", source, escaped) if each else _mount_by_page(stack, source, options)

    return in_thread(make)


def _escape(option: str) -> str:
    r"""Give an option as fsconfig(2) takes it: `\` is an escape in the upper paths, and stands for itself in the lower ones."""
    return option.replace("\\", r"\\") if option.startswith(("upperdir=", "workdir=")) else option


@functools.cache
def takes_each_layer() -> bool:
    """Tell whether the kernel knows `lowerdir+`. One from before 6.5 accepts any option here and looks at it later."""
    context = syscall("fsopen", "overlay", mounts.FSOPEN_CLOEXEC)
    try:
        if _accepts(context, "no-such-option", "/"):
            return False
        return _accepts(context, "lowerdir+", "/")
    finally:
        os.close(context)


def _accepts(context: int, key: str, value: str) -> bool:
    try:
        syscall("fsconfig", context, mounts.FSCONFIG_SET_STRING, key, value, 0)
    except OSError:
        return False
    return True


def _shift_owners(stack: Stack, userns: int) -> None:
    """Lay a clone with shifted owners over each layer. Upper and work directory must be in one mount: that of the directory
    which has both.
    """
    places = list(stack.lower)
    if stack.upper:
        above, beside = Path(stack.upper).parent, Path(stack.work).parent
        if above != beside:
            raise OSError(
                errno.EINVAL,
                f"mount overlay with shifted owners: upperdir and workdir are not in one directory, but in {above} and {beside}",
            )
        places.insert(0, str(above))
    with ExitStack() as opened:
        clones = []  # all are taken before one lies over another
        for place in places:
            clones.append(mounts.open_bind(AT_FDCWD, place, MountOptions(), userns))
            opened.callback(os.close, clones[-1])
        if stack.upper:
            _become_owner(clones[0])
        for clone, place in zip(clones, places, strict=True):
            mounts.attach(clone, place)


def _become_owner(directory: int) -> None:
    """Make files as who owns a directory of root's by the shifted owners: overlay makes its own as who mounted it, and root is nobody
    in there. The capabilities stay.
    """
    status = os.stat(".", dir_fd=directory)
    if _NOBODY in (status.st_uid, status.st_gid):
        raise OSError(errno.EOVERFLOW, "mount overlay with shifted owners: the user namespace has no id 0")
    held = capabilities.current()
    libc.setfsuid(status.st_uid)  # both are of this thread alone
    libc.setfsgid(status.st_gid)
    capabilities.apply(held)


def _mount_by_page(stack: Stack, source: str, options: MountOptions) -> int:
    common = os.path.commonpath([Path(path).parent for path in stack.paths])
    os.chdir(common)  # this thread's: it has left the others' with their mounts
    page = options_page(stack, common)
    if len(page) > _PAGE:
        raise OSError(
            errno.E2BIG,
            f"mount overlay of {len(stack.lower)} layers: their paths, {len(page)} bytes from {common}, are more than the {_PAGE} that "
            "this kernel takes (6.8 and later have no such limit)",
        )
    place = stack.lower[0]
    mounts.mount(source, place, "overlay", 0, os.fsdecode(page))
    return mounts.open_bind(AT_FDCWD, place, options)


def options_page(stack: Stack, common: str) -> bytes:
    r"""Give the options as mount(2) takes them, paths relative to `common`; `\`, `,` and `:` are escaped by a `\`."""

    def short(path: str) -> str:
        relative = os.path.relpath(path, common)
        for char in "\\,:":
            relative = relative.replace(char, f"\\{char}")
        return relative

    parts = [f"lowerdir={':'.join(map(short, stack.lower))}"]
    if stack.upper:
        parts += [f"upperdir={short(stack.upper)}", f"workdir={short(stack.work)}"]
    return os.fsencode(",".join([*parts, *stack.rest]))
