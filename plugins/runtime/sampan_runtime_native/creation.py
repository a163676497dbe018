"""The driver's side of a new container: what is opened before the first process, its birth, and its way to the gate.

The other side, what the first process does meanwhile, is `init.first`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket

from sampan.api.errors import InvalidArgument, System
from sampan.api.runtime import CreateRequest
from sampan.linux.cgroups import Cgroup
from sampan.linux.namespaces import CLONE_NEWCGROUP, CLONE_NEWNET, CLONE_NEWPID, CLONE_PARENT, setns
from sampan.linux.processes import clone
from sampan.linux.syscalls import PR_SET_DUMPABLE, prctl
from sampan_runtime_native import channel, filters
from sampan_runtime_native.files import Files
from sampan_runtime_native.init import FirstProcess, first
from sampan_runtime_native.joining import check_console
from sampan_runtime_native.plan import Plan
from sampan_runtime_native.rootfs import open_sources

_log = logging.getLogger(__name__)


def check(plan: Plan, request: CreateRequest) -> None:
    """See that plan and request fit each other. Raises `InvalidArgument`, `Unsupported`."""
    check_console(plan.process, request.stdio.console)
    if not request.rootfs and not plan.root:
        raise InvalidArgument("the container has no root file system")
    if request.netns >= 0 and any(flag == CLONE_NEWNET for flag, _ in plan.join):
        raise InvalidArgument("two network namespaces are given: one by the spec and one by the engine")
    filters.check(plan.seccomp)


def create(plan: Plan, request: CreateRequest, cgroup: Cgroup, files: Files) -> int:
    """Make the first process, let it build the container, and give its pid once it waits at the gate.

    On an error the caller removes cgroup and files; the process is dead or dies with the cgroup. Raises `SampanError`, `OSError`.
    """
    files.make()
    with contextlib.ExitStack() as stack:
        sources = open_sources(plan, cgroup, with_root=not request.rootfs)
        stack.callback(_close_all, sources.fds)
        joins = [(flag, _open_namespace(path)) for flag, path in plan.join]
        stack.callback(_close_all, [fd for _, fd in joins])
        flags = plan.new
        if request.netns >= 0:
            flags &= ~CLONE_NEWNET
            joins.append((CLONE_NEWNET, os.dup(request.netns)))
            stack.callback(os.close, joins[-1][1])
        ours, theirs = channel.pair()
        stack.enter_context(ours)
        born_in = cgroup.open_unified()
        if born_in >= 0:
            stack.callback(os.close, born_in)
        prctl(PR_SET_DUMPABLE, 0)
        for flag, fd in joins:
            if flag == CLONE_NEWPID:
                setns(fd, CLONE_NEWPID)
        inside = tuple((flag, fd) for flag, fd in joins if flag != CLONE_NEWPID)
        # The cgroup namespace comes later: its root is the cgroup that the process is in when it is made.
        pid = clone(flags & ~CLONE_NEWCGROUP | CLONE_PARENT, born_in)
        if pid == 0:
            base = str(files.root)
            first(FirstProcess(plan, request.rootfs, sources, inside, request.stdio, base, theirs))
        theirs.close()
        # All this goes on while the first process builds the container.
        cgroup.apply(plan.resources)
        program, program_flags = filters.compile_and_keep(plan.seccomp, files)
        gate = stack.enter_context(files.open_gate())
        channel.move_and_let_go(ours, cgroup, pid, channel.Go(program, program_flags, gate.fileno()))
        _await_ready(ours)
    return pid


def _await_ready(process: socket.socket) -> None:
    letter, warnings = channel.receive(process)
    if letter != channel.READY:
        raise System("the container's first process died before it was ready", remedy="see the kernel's log")
    for warning in warnings:
        _log.warning("create: %s", warning)


def _open_namespace(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgument(f"namespace {path}: {os.strerror(error.errno or 0)}") from error


def _close_all(fds: tuple[int, ...] | list[int]) -> None:
    for fd in fds:
        os.close(fd)
