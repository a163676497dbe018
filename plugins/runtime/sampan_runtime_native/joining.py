"""The driver's side of one more process in a container. The other side is `init.another`."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator

from sampan.api.errors import Conflict, InvalidArgument
from sampan.api.runtime import Handle, Stdio
from sampan.linux.cgroups import Cgroup
from sampan.linux.namespaces import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    CLONE_PARENT,
    maps_of,
    setns,
)
from sampan.linux.processes import clone
from sampan.linux.scheduling import pin
from sampan.linux.syscalls import PR_SET_DUMPABLE, prctl
from sampan_runtime_native import channel, filters, stdio
from sampan_runtime_native.files import Files
from sampan_runtime_native.init import Entry, another
from sampan_runtime_native.process import Process

_ENTERED = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP


def check_console(process: Process, console: int) -> None:
    """See that process and streams agree on whether there is a terminal. Raises `InvalidArgument`."""
    if process.terminal != (console >= 0):
        raise InvalidArgument("process.terminal and a console socket come together or not at all")


def join(handle: Handle, cgroup: Cgroup, process: Process, streams: Stdio, files: Files) -> int:
    """Make one more process in a container and give its pid once its program runs. Raises `SampanError`, `OSError`."""
    kinds = _ENTERED | handle.data.get("kinds", 0)
    with contextlib.ExitStack() as stack:
        if not cgroup.has(handle.pid):
            raise Conflict("exec: the container is not running")
        pidfd = stack.enter_context(opened_pidfd(handle.pid))
        ours, theirs = channel.pair()
        stack.enter_context(ours)
        born_in = cgroup.open_beside(handle.pid)
        if born_in >= 0:
            stack.callback(os.close, born_in)
        if kinds & CLONE_NEWUSER:
            stdio.give(streams, maps_of(handle.pid), process.uid)
        prctl(PR_SET_DUMPABLE, 0)
        setns(pidfd, CLONE_NEWPID)
        if process.scheduling:
            pin(process.scheduling.initial_cpus)
        pid = clone(CLONE_PARENT, born_in)
        if pid == 0:
            another(process, streams, Entry(pidfd, kinds, handle.data.get("personality")), theirs)
        theirs.close()
        try:
            channel.move_and_let_go(ours, cgroup, pid, channel.Go(*files.load_filter()))
            filters.await_program(ours, files, "running", handle.pid, pid)
        except BaseException:
            _end(pid)
            raise
    return pid


@contextlib.contextmanager
def opened_pidfd(pid: int) -> Iterator[int]:
    """Give a pidfd for so long. Raises `ProcessLookupError`."""
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def _end(pid: int) -> None:
    """Kill a process that came to nothing, and wait until it is out of the container."""
    with contextlib.suppress(ProcessLookupError), opened_pidfd(pid) as pidfd:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll()
