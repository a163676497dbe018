"""The driver: makes a container's first process and later ones, and speaks to the kernel about them.

Every method runs in a short-lived child of the shim and does its work within one process; what stays is the
cgroup, the first process and, under the driver's state directory, `gate` (the socket at which the first
process waits for `start`), `root` (the mount point, empty for everyone else) and `filter` (the compiled
seccomp program, for `exec`). A new process is born as the shim's own child (`CLONE_PARENT`), in its pid
namespace and v2 cgroup at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sampan.api.driver import Probe
from sampan.api.errors import Conflict, InvalidArgument, NotFound, System, Unsupported
from sampan.api.runtime import (
    CreateRequest,
    ExecRequest,
    Handle,
    RuntimeCapability,
    RuntimeContext,
    RuntimeDriver,
    Spec,
    Stats,
)
from sampan.linux import seccomp
from sampan.linux.cgroups import Cgroup, detect
from sampan.linux.namespaces import CLONE_NEWCGROUP, CLONE_NEWNET, CLONE_NEWPID, CLONE_PARENT, setns
from sampan.linux.processes import clone
from sampan.linux.syscalls import MACHINE, NR, PR_SET_DUMPABLE, prctl
from sampan_runtime_native import channel
from sampan_runtime_native.init import FirstProcess, another, first
from sampan_runtime_native.plan import Plan, Process
from sampan_runtime_native.rootfs import open_sources

if TYPE_CHECKING:
    from sampan.api.config import DriverConfig

_log = logging.getLogger(__name__)
_VERSION: Final = 1

seccomp.warm_up()  # a zygote imports this module once, and every container compiles its filter in a fork of a fork


class NativeRuntime(RuntimeDriver):
    """Containers by system calls from this process; no helper program, no daemon."""

    name = "native"
    preload: ClassVar[bool] = True

    @classmethod
    def config_model(cls) -> type[DriverConfig]:
        """Give the settings' model."""
        from sampan_runtime_native.config import NativeConfig

        return NativeConfig

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """Supported for root on x86_64 and aarch64 with a kernel that has the new mount interface (5.12 or
        later)."""
        if not NR:
            return Probe(False, f"machine {MACHINE} is not supported; use runtime 'runc'")
        release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
        if release < (5, 12):
            return Probe(False, f"Linux {os.uname().release} lacks mount_setattr; 5.12 or later is needed")
        if os.geteuid() != 0:
            return Probe(False, "the native runtime needs root; run the daemon as root")
        try:
            detect()
        except OSError as error:
            return Probe(False, f"{error}; mount the cgroup hierarchies")
        capabilities = (
            RuntimeCapability.EXEC, RuntimeCapability.PAUSE, RuntimeCapability.UPDATE, RuntimeCapability.OWN_NETWORK,
        )  # fmt: skip
        return Probe(True, capabilities=frozenset(capabilities))

    def __init__(self, context: RuntimeContext, config: Mapping[str, Any]) -> None:
        """Keep the arguments."""
        super().__init__(context, config)
        self._gate = context.state / "gate"
        self._root = context.state / "root"
        self._filter = context.state / "filter"

    # -- life and death

    def create(self, request: CreateRequest) -> Handle:
        """See the contract. On an error nothing is left but, for a moment, a dead child of the shim."""
        try:
            plan = Plan.of_spec(request.id, request.spec)
            self._check(plan, request)
            cgroup = Cgroup(plan.cgroup)
        except (ValueError, KeyError, TypeError) as error:
            raise channel.as_sampan_error(error) from error
        try:
            cgroup.create()
        except OSError as error:
            cgroup.remove_if_empty()  # not by a kill: what may run in a cgroup of that name is not ours
            raise channel.as_sampan_error(error) from error
        try:
            pid = self._create(plan, request, cgroup)
        except BaseException as error:
            self._clean(cgroup)
            if isinstance(error, (OSError, ValueError, KeyError, TypeError)):
                raise channel.as_sampan_error(error) from error
            raise
        return Handle(pid, _VERSION, {"cgroup": cgroup.path})

    def start(self, handle: Handle) -> None:
        """Open the gate; returns when the program runs."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as starter:
            try:
                with _directory(self.context.state) as directory:
                    starter.connect(f"/proc/self/fd/{directory}/gate")
            except (FileNotFoundError, ConnectionRefusedError) as error:
                raise Conflict(
                    "start: the container's first process waits no more; it was started or is dead"
                ) from error
            self._gate.unlink(missing_ok=True)
            channel.receive(starter)  # b"" once the program's exec has closed it; raises what the process tells

    def signal(self, handle: Handle, signum: int, *, everyone: bool = False) -> None:
        """By pidfd, after looking that the process is the container's still."""
        cgroup = _cgroup_of(handle)
        pids = cgroup.procs()
        if everyone:
            if signum == signal.SIGKILL:
                cgroup.kill()
                return
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signum)
            return
        if handle.pid not in pids:
            raise NotFound(f"signal {signum}: process {handle.pid} of the container is gone")
        try:
            with _pidfd(handle.pid) as pidfd:
                signal.pidfd_send_signal(pidfd, signum)
        except ProcessLookupError as error:
            raise NotFound(f"signal {signum}: process {handle.pid} of the container is gone") from error
        except OSError as error:
            raise InvalidArgument(f"signal {signum} to process {handle.pid}: {error.strerror}") from error

    def delete(self, handle: Handle) -> None:
        """Kill by cgroup, remove the cgroup and the driver's files. The mounts went with the processes."""
        self._clean(_cgroup_of(handle))

    # -- in a running container

    def exec(self, handle: Handle, request: ExecRequest) -> int:
        """See the contract."""
        try:
            process = Process.of_spec(request.process)
        except (ValueError, KeyError, TypeError) as error:
            raise channel.as_sampan_error(error) from error
        self._check_console(process, request.stdio.console)
        cgroup = _cgroup_of(handle)
        try:
            return self._exec(handle, cgroup, process, request)
        except OSError as error:
            raise channel.as_sampan_error(error) from error

    def pause(self, handle: Handle) -> None:
        """Freeze the cgroup."""
        self._freeze(handle, frozen=True)

    def resume(self, handle: Handle) -> None:
        """Thaw the cgroup."""
        self._freeze(handle, frozen=False)

    def update(self, handle: Handle, resources: Spec) -> None:
        """Write the limits that `resources` mentions."""
        try:
            _cgroup_of(handle).apply(resources)
        except OSError as error:
            raise System(f"update: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidArgument(f"update: {error}") from error

    def stats(self, handle: Handle) -> Stats:
        """Read the cgroup."""
        try:
            found = _cgroup_of(handle).stats()
        except OSError as error:
            raise System(f"stats: {error.strerror}: {error.filename}") from error
        return Stats(found.cpu_ns, found.memory_bytes, found.memory_limit_bytes, found.pids, found.raw)

    def processes(self, handle: Handle) -> tuple[int, ...]:
        """Read the cgroup's members, also those in cgroups below it."""
        return _cgroup_of(handle).procs()

    def oom_killed(self, handle: Handle) -> bool:
        """Ask the memory controller."""
        return _cgroup_of(handle).oom_kill_count() > 0

    # -- how

    def _check(self, plan: Plan, request: CreateRequest) -> None:
        self._check_console(plan.process, request.stdio.console)
        if not request.rootfs and not plan.root:
            raise InvalidArgument("the container has no root file system")
        if request.netns >= 0 and any(flag == CLONE_NEWNET for flag, _ in plan.join):
            raise InvalidArgument("two network namespaces are given: one by the spec and one by the engine")
        if plan.seccomp and any(
            "SCMP_ACT_NOTIFY" in (rule.get("action"), plan.seccomp.get("defaultAction"))
            for rule in (plan.seccomp.get("syscalls") or [{}])
        ):
            raise Unsupported("seccomp: the native runtime serves no SCMP_ACT_NOTIFY", remedy="use runtime 'runc'")

    @staticmethod
    def _check_console(process: Process, console: int) -> None:
        if process.terminal != (console >= 0):
            raise InvalidArgument("process.terminal and a console socket come together or not at all")

    def _compile(self, plan: Plan) -> tuple[bytes, int]:
        """Compile the seccomp object, and keep it for `exec`."""
        if not plan.seccomp:
            return b"", 0
        filter_, flags = seccomp.compile(plan.seccomp), seccomp.flags_of(plan.seccomp)
        self._filter.write_bytes(flags.to_bytes(4, "little") + filter_)
        return filter_, flags

    def _compiled(self) -> tuple[bytes, int]:
        try:
            stored = self._filter.read_bytes()
        except FileNotFoundError:
            return b"", 0
        return stored[4:], int.from_bytes(stored[:4], "little")

    def _make_directories(self) -> None:
        try:
            self._root.mkdir(exist_ok=True)
        except FileNotFoundError:
            self.context.state.mkdir(parents=True, mode=0o700)
            self._root.mkdir()

    def _create(self, plan: Plan, request: CreateRequest, cgroup: Cgroup) -> int:
        self._make_directories()
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
                base = str(self._root)
                first(FirstProcess(plan, request.rootfs, sources, inside, request.stdio, base, theirs))
            theirs.close()
            # All this goes on while the first process builds the container.
            cgroup.apply(plan.resources)
            filter_, filter_flags = self._compile(plan)
            gate = stack.enter_context(self._open_gate())
            self._move(cgroup, pid, ours, channel.Go(filter_, filter_flags, gate.fileno()))
            self._await_ready(ours)
        return pid

    def _exec(self, handle: Handle, cgroup: Cgroup, process: Process, request: ExecRequest) -> int:
        with contextlib.ExitStack() as stack:
            if not cgroup.has(handle.pid):
                raise Conflict("exec: the container is not running")
            pidfd = stack.enter_context(_pidfd(handle.pid))
            ours, theirs = channel.pair()
            stack.enter_context(ours)
            born_in = cgroup.open_unified()
            if born_in >= 0:
                stack.callback(os.close, born_in)
            prctl(PR_SET_DUMPABLE, 0)
            setns(pidfd, CLONE_NEWPID)
            pid = clone(CLONE_PARENT, born_in)
            if pid == 0:
                another(process, request.stdio, pidfd, theirs)
            theirs.close()
            try:
                self._move(cgroup, pid, ours, channel.Go(*self._compiled()))
                channel.receive(ours)  # b"" once the program's exec has closed it
            except BaseException:
                _end(pid)
                raise
        return pid

    @staticmethod
    def _move(cgroup: Cgroup, pid: int, process: socket.socket, go: channel.Go) -> None:
        """Move the new process into the v1 hierarchies while it builds, then let it go on."""
        try:
            cgroup.add(pid, unified=False)
            channel.send_go(process, go)
        except OSError:
            channel.receive(process)  # it died and said why, or the move failed for a reason of its own
            raise

    @staticmethod
    def _await_ready(process: socket.socket) -> None:
        letter, warnings = channel.receive(process)
        if letter != channel.READY:
            raise System("the container's first process died before it was ready", remedy="see the kernel's log")
        for warning in warnings:
            _log.warning("create: %s", warning)

    def _open_gate(self) -> socket.socket:
        gate = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._gate.unlink(missing_ok=True)
            with _directory(self.context.state) as directory:
                gate.bind(f"/proc/self/fd/{directory}/gate")
            gate.listen(1)
        except BaseException:
            gate.close()
            raise
        return gate

    def _freeze(self, handle: Handle, *, frozen: bool) -> None:
        try:
            _cgroup_of(handle).freeze(frozen)
        except FileNotFoundError as error:
            raise NotFound(f"{'pause' if frozen else 'resume'}: the container's cgroup is gone") from error
        except OSError as error:
            raise System(f"{'pause' if frozen else 'resume'}: {error.strerror}") from error

    def _clean(self, cgroup: Cgroup) -> None:
        try:
            if not cgroup.remove_if_empty():
                cgroup.kill()
                cgroup.remove()
            for path in (self._gate, self._filter):
                path.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                self._root.rmdir()
        except OSError as error:
            raise System(f"delete: {error.strerror}: {error.filename}", remedy="try again later") from error


def _cgroup_of(handle: Handle) -> Cgroup:
    if handle.version != _VERSION:
        raise Unsupported(f"handle version {handle.version} is of another release of the native runtime")
    return Cgroup(handle.data["cgroup"])


def _end(pid: int) -> None:
    """Kill a process that came to nothing, and wait until it is out of the container."""
    with contextlib.suppress(ProcessLookupError), _pidfd(pid) as pidfd:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll()


def _open_namespace(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgument(f"namespace {path}: {os.strerror(error.errno or 0)}") from error


def _close_all(fds: tuple[int, ...] | list[int]) -> None:
    for fd in fds:
        os.close(fd)


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
