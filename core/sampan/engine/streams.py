"""Attaching to a process's stdio: socket pairs whose far ends the shim gets."""

from __future__ import annotations

import os
from dataclasses import dataclass

from sampan.engine.fdstream import FdStream


@dataclass(slots=True)
class StdioPair:
    """Both sides of an attach: `stdin`, `stdout`, `stderr` are ours, `remote` are the descriptors for the shim (-1: not wanted)."""

    stdin: FdStream | None
    stdout: FdStream | None
    stderr: FdStream | None
    remote: tuple[int, int, int]

    @classmethod
    def open(cls, *, stdin: bool, stdout: bool, stderr: bool) -> StdioPair:
        """Make the socket pairs for the streams that are wanted."""
        ours: list[FdStream | None] = []
        theirs: list[int] = []
        for wanted in (stdin, stdout, stderr):
            if not wanted:
                ours.append(None)
                theirs.append(-1)
                continue
            near, far = FdStream.pair()
            ours.append(near)
            theirs.append(far)
        return cls(ours[0], ours[1], ours[2], (theirs[0], theirs[1], theirs[2]))

    def release_remote(self) -> None:
        """Close our copies of the shim's ends, once it has its own or never will."""
        close_descriptors(self.remote)
        self.remote = (-1, -1, -1)

    def close(self) -> None:
        """Close everything."""
        self.release_remote()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()


def close_descriptors(descriptors: tuple[int, ...]) -> None:
    """Close those that are open (not -1)."""
    for fd in descriptors:
        if fd >= 0:
            os.close(fd)
