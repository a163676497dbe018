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
from sampan.linux.namespaces import (
    CLONE_NEWNET,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    kind_of_namespace,
    maps_of_userns,
    new_userns,
)
from sampan.linux.syscalls import PR_SET_DUMPABLE, prctl
from sampan_runtime_native import channel, filters, hooks, stdio
from sampan_runtime_native.birth import Birth, Join
from sampan_runtime_native.files import Files
from sampan_runtime_native.init import FirstProcess, first
from sampan_runtime_native.joining import check_console
from sampan_runtime_native.plan import NAMESPACES, Plan
from sampan_runtime_native.program import Program
from sampan_runtime_native.rootfs import UserNamespace, open_sources
from sampan_runtime_native.state import ContainerState

_log = logging.getLogger(__name__)


def check(plan: Plan, request: CreateRequest) -> None:
    """See that plan and request fit each other. Raises `InvalidArgument`, `Unsupported`."""
    check_console(plan.process, request.stdio.console)
    if not request.rootfs and not plan.root:
        raise InvalidArgument("the container has no root file system")
    for fd, flag, kind in ((request.netns, CLONE_NEWNET, "network"), (request.userns, CLONE_NEWUSER, "user")):
        if fd >= 0 and any(joined == flag for joined, _ in plan.join):
            raise InvalidArgument(f"two {kind} namespaces are given: one by the spec and one by the engine")
    new_user = plan.new & CLONE_NEWUSER
    if (new_user or request.userns >= 0) and not plan.maps:
        raise InvalidArgument("a user namespace needs linux.uidMappings and linux.gidMappings")
    if plan.maps and not new_user and request.userns < 0:
        joined = any(flag == CLONE_NEWUSER for flag, _ in plan.join)
        why = "the user namespace at a path has its own" if joined else "the container has no user namespace"
        raise InvalidArgument(f"linux.uidMappings: {why}", remedy="leave the maps out")
    filters.check(plan.seccomp)


def remembered(plan: Plan, request: CreateRequest) -> dict[str, int]:
    """Give what whoever joins the container later must know, for the handle; nothing for most."""
    wanted = {"kinds": kinds_to_enter(plan, request), "personality": plan.personality}
    return {name: value for name, value in wanted.items() if value}


def kinds_to_enter(plan: Plan, request: CreateRequest) -> int:
    """Give the kinds of namespaces (CLONE_NEW* flags) that only some containers have, and whoever joins this one must enter."""
    given = CLONE_NEWUSER if request.userns >= 0 else 0
    return (plan.new | sum(flag for flag, _ in plan.join) | given) & (CLONE_NEWUSER | CLONE_NEWTIME)


def create(plan: Plan, request: CreateRequest, cgroup: Cgroup, files: Files) -> int:
    """Make the first process, let it build the container, and give its pid once it waits at the gate.

    On an error the caller removes cgroup and files; the process is dead or dies with the cgroup. Raises `SampanError`, `OSError`.
    """
    files.make()
    state = ContainerState.of_request(request)
    wanted = hooks.Hooks.of_spec(request.spec.get("hooks") or {}, state)
    with contextlib.ExitStack() as stack:
        joins = _open_namespaces(plan, request, stack)
        user = _user_namespace(plan, joins)
        sources = open_sources(plan, cgroup, request, user)
        stack.callback(_close_all, sources.fds)
        if user is not None:
            stdio.give(request.stdio, user.maps, plan.process.uid)
        ours, theirs = channel.pair()
        stack.enter_context(ours)
        born_in = cgroup.open_unified()
        if born_in >= 0:
            stack.callback(os.close, born_in)
        root = hooks.place_of_root(request.bundle, plan) if wanted and user is None else "/"
        meeting, visitors = wanted.meet(files, request.stdio.preserved, root) if wanted else (None, None)
        prctl(PR_SET_DUMPABLE, 0)
        joined = sum(flag for flag, _ in joins)
        program = Program(plan.process)
        birth = Birth(plan.new & ~joined, joins, born_in, plan.time_offsets, program.prepare_outside)
        pid = birth.bear(
            lambda left: first(
                FirstProcess(plan, program, request.rootfs, sources, left, request.stdio, user.maps if user else None, theirs, visitors)
            ),
            theirs,
        )
        theirs.close()
        if visitors:
            visitors.driver.close()
        if not pid:
            _await_ready(ours)
        # All this goes on while the first process builds the container.
        devices = plan.resources.get("devices") or ()  # without a list: only what every container may use
        cgroup.apply({**plan.resources, "devices": devices})
        if plan.owns_cgroup:
            cgroup.delegate(user.maps.uid(plan.process.uid) if user else plan.process.uid)
        filter_, filter_flags = filters.compile_and_keep(plan.seccomp, files, state)
        gate = stack.enter_context(files.open_gate())
        channel.move_and_let_go(ours, cgroup, pid, channel.Go(filter_, filter_flags, gate.fileno()))
        if wanted and meeting:
            hooks.receive(meeting, wanted, pid)
        _await_ready(ours)
    return pid


def _await_ready(process: socket.socket) -> None:
    letter, warnings = channel.receive(process)
    if letter != channel.READY:
        raise System("the container's first process died before it was ready", remedy="see the kernel's log")
    for warning in warnings:
        _log.warning("create: %s", warning)


def _open_namespaces(plan: Plan, request: CreateRequest, stack: contextlib.ExitStack) -> tuple[Join, ...]:
    """Open what is to be joined, the user namespace that is to be new included: it is made here. `stack` closes all."""
    joins: list[Join] = []

    def take(flag: int, fd: int) -> None:
        joins.append((flag, fd))
        stack.callback(os.close, fd)

    for flag, path in plan.join:
        take(flag, _open_namespace(path, flag))
    for flag, fd in ((CLONE_NEWNET, request.netns), (CLONE_NEWUSER, request.userns)):
        if fd >= 0:
            take(flag, os.dup(fd))
    if plan.new & CLONE_NEWUSER and request.userns < 0 and plan.maps:
        take(CLONE_NEWUSER, new_userns(plan.maps.uids, plan.maps.gids))
    return tuple(joins)


def _user_namespace(plan: Plan, joins: tuple[Join, ...]) -> UserNamespace | None:
    """Give the container's user namespace and see that whoever the process is to be is there. None without one."""
    fd = next((fd for flag, fd in joins if flag == CLONE_NEWUSER), -1)
    if fd < 0:
        return None
    maps = plan.maps or maps_of_userns(fd)
    process = plan.process
    lost = [f"uid {uid}" for uid in (0, process.uid) if maps.uid(uid) < 0]
    lost += [f"gid {gid}" for gid in (0, process.gid, *process.groups) if maps.gid(gid) < 0]
    if lost:
        raise InvalidArgument(f"the container's user namespace has no {', '.join(dict.fromkeys(lost))}", remedy="map more ids")
    return UserNamespace(fd, maps)


def _open_namespace(path: str, flag: int) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgument(f"namespace {path}: {os.strerror(error.errno or 0)}") from error
    if kind_of_namespace(fd) != flag:
        os.close(fd)
        name = next(name for name, each in NAMESPACES.items() if each == flag)
        raise InvalidArgument(f"namespace {path}: it is no {name} namespace")
    return fd


def _close_all(fds: tuple[int, ...] | list[int]) -> None:
    for fd in fds:
        os.close(fd)
