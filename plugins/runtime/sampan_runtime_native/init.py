"""What the two kinds of new processes do between their birth and their program.

`first` runs as the container's first process: it builds the container around itself, says that it is ready,
and waits at a unix socket for `start`. `another` joins a container that is there. Both keep only the
descriptors they need, can't be looked into (`PR_SET_DUMPABLE`), and report an error instead of returning.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from sampan.api.errors import System
from sampan.linux.mounts import MountOptions, open_filesystem
from sampan.linux.namespaces import (
    CLONE_NEWCGROUP,
    CLONE_NEWUSER,
    setns,
    unshare,
)
from sampan.linux.processes import keep_only, leave_keyring, reset_signals, set_personality
from sampan.linux.scheduling import pin
from sampan.linux.syscalls import PR_SET_DUMPABLE, libc, prctl
from sampan_runtime_native import channel
from sampan_runtime_native.birth import become_root
from sampan_runtime_native.program import Program
from sampan_runtime_native.rootfs import RootBuilder, Sources, write_sysctls
from sampan_runtime_native.terminal import open_terminal, send_master, use_terminal

if TYPE_CHECKING:
    from sampan.api.runtime import Mount, Stdio
    from sampan.linux.namespaces import IdMaps
    from sampan_runtime_native.birth import Settling
    from sampan_runtime_native.hooks import Visitors
    from sampan_runtime_native.plan import Plan
    from sampan_runtime_native.process import Process


@dataclass(frozen=True, slots=True)
class Entry:
    """A container to join: a pidfd of its first process, the kinds of that one's namespaces (CLONE_NEW* flags), its personality."""

    pidfd: int
    kinds: int
    personality: int | None


@dataclass(frozen=True, slots=True)
class FirstProcess:
    """What the first process needs, all opened by the driver. `maps` are its user namespace's, None without one."""

    plan: Plan
    program: Program
    rootfs: tuple[Mount, ...]
    sources: Sources
    settling: Settling
    stdio: Stdio
    maps: IdMaps | None
    driver: socket.socket
    visitors: Visitors | None = None


def first(container: FirstProcess) -> NoReturn:
    """Build the container, wait for `start`, become its program. Never returns."""
    teller = container.driver

    def steps() -> None:
        nonlocal teller
        joins = [fd for _, fd in container.settling.joins]
        visitors = container.visitors
        met = (visitors.driver.fileno(),) if visitors else ()
        _settle(container.stdio, (*container.sources.fds, *joins, container.driver.fileno(), *met))
        program = container.program
        _build(container)
        go = channel.await_go(container.driver)
        if scheduling := container.plan.process.scheduling:
            scheduling.apply()  # in the cgroups, which have a say in it
        if container.plan.new & CLONE_NEWCGROUP:
            unshare(CLONE_NEWCGROUP)  # after the driver has moved us: the namespace's root is where we are
        channel.send(container.driver, channel.READY, *program.warnings)
        with socket.socket(fileno=go.gate) as gate:
            teller, _ = gate.accept()
        container.driver.close()
        program.run(go, teller, container.stdio.preserved, visitors)

    _report_errors(lambda: teller, steps)


def another(process: Process, stdio: Stdio, container: Entry, driver: socket.socket) -> NoReturn:
    """Join a container and become a program in it. Never returns."""

    def steps() -> None:
        _settle(stdio, (container.pidfd, driver.fileno()))
        proc = _open_proc()  # before: inside, a procfs that is partly covered keeps a user namespace from having a whole one
        program = Program(process)
        if container.kinds & CLONE_NEWUSER:
            program.prepare_outside(proc)
            os.setgroups(())  # in there it may be forbidden
        import_no_more()
        setns(container.pidfd, container.kinds)  # all at once: the kernel begins with the user namespace
        os.close(container.pidfd)
        if container.kinds & CLONE_NEWUSER:
            become_root()
        if container.personality is not None:
            set_personality(container.personality)
        if process.terminal:
            root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            master, slave = open_terminal(root, process.console_size)
            os.close(root)
            send_master(stdio.console, master)
            os.close(master)
            os.close(stdio.console)
            use_terminal(slave)
        program.prepare(proc)
        os.close(proc)
        go = channel.await_go(driver)
        if process.scheduling:
            process.scheduling.apply()
            pin(process.scheduling.final_cpus)
        if program.warnings:
            channel.send(driver, channel.WARNING, *program.warnings)
        program.run(go, driver, stdio.preserved)

    _report_errors(lambda: driver, steps)


def _report_errors(teller: Callable[[], socket.socket], steps: Callable[[], None]) -> NoReturn:
    try:
        steps()
    except BaseException as error:  # told to the driver: nothing here may unwind into the caller's code
        try:
            channel.send_error(teller(), error)
        except OSError:
            pass  # nobody is there to hear it
    os._exit(1)


def _settle(stdio: Stdio, kept: tuple[int, ...]) -> None:
    """Take the streams, let go of every other descriptor, of the session and of the signal dispositions."""
    prctl(PR_SET_DUMPABLE, 0)
    reset_signals()
    os.setsid()
    leave_keyring()
    if stdio.console >= 0:
        kept = (*kept, stdio.console)
    # Duplicated above first, so that no stream is overwritten before it was moved. Without streams (a
    # terminal comes later) the numbers are taken all the same, so that nothing else gets them.
    moved = [_above(fd) for fd in (stdio.stdin, stdio.stdout, stdio.stderr)]
    for number, fd in enumerate(moved):
        os.dup2(fd, number)
    keep_only((*range(3 + stdio.preserved), *kept))


def import_no_more() -> None:
    """What has not been imported by now would be looked for in the container's root."""
    sys.meta_path.clear()


def _above(fd: int) -> int:
    if fd < 0:
        fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)


def _build(container: FirstProcess) -> None:
    plan = container.plan
    container.settling.go()
    proc = _open_proc()
    builder = RootBuilder(plan, container.sources, container.maps, container.visitors.root if container.visitors else "/")
    builder.mount_root(container.rootfs)
    builder.mount_all()
    builder.make_devices()
    if container.visitors:
        container.visitors.before_root()
    slave = -1
    if plan.process.terminal:
        master, slave = open_terminal(builder.fd, plan.process.console_size)
        builder.mount_console(slave)
        send_master(container.stdio.console, master)
        os.close(master)
        os.close(container.stdio.console)
    builder.protect()
    import_no_more()
    builder.enter()
    os.close(builder.fd)
    if slave >= 0:
        use_terminal(slave)
    _name_host(plan)
    if plan.personality is not None:
        set_personality(plan.personality)
    write_sysctls(proc, plan.sysctls)
    container.program.make_directory()
    container.program.prepare(proc)
    os.close(proc)


def _open_proc() -> int:
    """Give a procfs of this pid namespace that is nowhere to be seen. One that is partly covered at its place would, in a user
    namespace, keep it from being mounted: so before anything is covered.
    """
    try:
        return open_filesystem("proc", "proc", MountOptions())
    except PermissionError as error:
        raise System(
            "mount proc: the container's user namespace does not own its pid namespace, or the daemon sees only a part of /proc",
            remedy="give the container a pid namespace of its own, or the host's user namespace",
        ) from error


def _name_host(plan: Plan) -> None:
    if plan.hostname:
        socket.sethostname(plan.hostname)
    if plan.domainname:
        name = plan.domainname.encode()
        if libc.setdomainname(name, len(name)):
            raise System(f"set domain name {plan.domainname!r}: refused by the kernel")
