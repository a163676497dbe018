"""Sockets made in other network namespaces, and not more than the process can afford."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from sampan.linux.namespaces import CLONE_NEWNET, setns


class Outside:
    """Makes sockets that ask the world, for all sandboxes. Of use to one thread, and in a process that has no other."""

    def __init__(self, most: int) -> None:
        """`most`: how many may be open at once. To be made in the host's network namespace."""
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._left = most

    def close(self) -> None:
        """Let go of the host's network namespace."""
        os.close(self.home)

    @contextmanager
    def open(self, family: int, kind: int, netns: int) -> Iterator[socket.socket]:
        """Give a socket in a network namespace, closed afterwards. Raises `OSError`, EMFILE when there are too many."""
        if not self._left:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self._left -= 1
        try:
            with self.inside(netns):
                made = socket.socket(family, kind | socket.SOCK_NONBLOCK)
            with made:
                yield made
        finally:
            self._left += 1

    @contextmanager
    def inside(self, netns: int) -> Iterator[None]:
        """Have this thread in another network namespace, for some lines without a pause. One that cannot go back ends the
        process: else all that follows would be done in a container's network.
        """
        setns(netns, CLONE_NEWNET)
        try:
            yield
        finally:
            try:
                setns(self.home, CLONE_NEWNET)
            except OSError:
                os.abort()
