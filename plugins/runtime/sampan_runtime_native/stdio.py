"""Whose the streams of a container are, where its user namespace has other ids than the host."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sampan.api.runtime import Stdio
    from sampan.linux.namespaces import IdMaps


def give(streams: Stdio, maps: IdMaps, uid: int) -> None:
    """Let the user `uid` of the container open /dev/stdout and its like: in there nobody could give it a pipe of the host's root.

    A terminal is opened inside and needs no such thing. Raises `OSError`.
    """
    for fd in (streams.stdin, streams.stdout, streams.stderr):
        if fd >= 0 and stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.fchown(fd, maps.uid(uid), -1)
