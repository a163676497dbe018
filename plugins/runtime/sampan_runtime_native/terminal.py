"""A container's terminal: opened in its own devpts, the master sent to whoever holds the other end.

Source: `ioctl_tty(2)`, `pty(7)`, `unix(7)` (`SCM_RIGHTS`).
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import stat
import struct
import termios
from typing import Final

from sampan.api.errors import Forbidden
from sampan.linux.files import DEVPTS_SUPER_MAGIC, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, filesystem_type, openat2

TIOCSPTLCK: Final = 0x40045431
TIOCGPTPEER: Final = 0x5441


def open_terminal(root: int, size: tuple[int, int] | None) -> tuple[int, int]:
    """Open a new terminal of the devpts at /dev/pts of `root`; give master and slave. `size` is (height,
    width)."""
    strict = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
    master = openat2(root, "dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY, resolve=strict)
    try:
        found = os.fstat(master)
        if not stat.S_ISCHR(found.st_mode) or filesystem_type(master) != DEVPTS_SUPER_MAGIC:
            raise Forbidden("terminal: /dev/pts/ptmx of the container is not a terminal multiplexer")
        fcntl.ioctl(master, TIOCSPTLCK, struct.pack("=i", 0))
        slave = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        if size:
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("=HHHH", size[0], size[1], 0, 0))
    except BaseException:
        os.close(master)
        raise
    return master, slave


def send_master(console: int, master: int) -> None:
    """Send the descriptor with one byte over the unix socket `console`, as runc's console socket has it."""
    with socket.socket(fileno=os.dup(console)) as channel:
        rights = array.array("i", [master])
        channel.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def use_terminal(slave: int) -> None:
    """Make it the controlling terminal of this session, and 0, 1 and 2."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in range(3):
        os.dup2(slave, fd)
    if slave > 2:
        os.close(slave)
