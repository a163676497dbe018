"""The driver: makes a container's first process and later ones, and speaks to the kernel about them.

Every method runs in a short-lived child of the shim and does its work within one process; what stays is the
cgroup, the first process and the files of `Files`. A new process is born as the shim's own child (`CLONE_PARENT`),
in its pid namespace and v2 cgroup at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sampan.api.driver import Probe
from sampan.api.errors import InvalidArgument, NotFound, SampanError, System, Unsupported
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
from sampan.linux.syscalls import MACHINE, NR
from sampan_runtime_native import channel, creation, filters
from sampan_runtime_native.files import Files
from sampan_runtime_native.hooks import Hooks
from sampan_runtime_native.joining import check_console, join, opened_pidfd
from sampan_runtime_native.plan import Plan
from sampan_runtime_native.process import Process

if TYPE_CHECKING:
    from sampan.api.config import DriverConfig

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
        capabilities = {
            RuntimeCapability.EXEC, RuntimeCapability.PAUSE, RuntimeCapability.UPDATE, RuntimeCapability.OWN_NETWORK,
            RuntimeCapability.HOOKS, RuntimeCapability.SECCOMP_NOTIFY, RuntimeCapability.IDMAPPED_MOUNTS,
        }  # fmt: skip
        optional = {RuntimeCapability.USER_NAMESPACE: _no_user_namespaces(), RuntimeCapability.TIME_NAMESPACE: _no_time_namespaces()}
        lacks: dict[str, str] = {capability: why for capability, why in optional.items() if why}
        capabilities |= optional.keys() - lacks.keys()
        return Probe(True, capabilities=frozenset(capabilities), lacks=lacks)

    def __init__(self, context: RuntimeContext, config: Mapping[str, Any]) -> None:
        """Keep the arguments."""
        super().__init__(context, config)
        self._files = Files(context.state, context.cache)

    # -- life and death

    def create(self, request: CreateRequest) -> Handle:
        """See the contract. On an error nothing is left but, for a moment, a dead child of the shim."""
        try:
            plan = Plan.of_spec(request.id, request.spec)
            creation.check(plan, request)
            cgroup = Cgroup(plan.cgroup)
        except channel.SPEC_FAULTS as error:
            raise channel.as_sampan_error(error) from error
        try:
            cgroup.create()
        except OSError as error:
            cgroup.remove_if_empty()  # not by a kill: what may run in a cgroup of that name is not ours
            raise channel.as_sampan_error(error) from error
        try:
            pid = creation.create(plan, request, cgroup, self._files)
        except BaseException as error:
            refused = isinstance(error, OSError) and error.errno in (errno.EBUSY, errno.EOPNOTSUPP)
            why = cgroup.unfit() if refused else ""
            self._clean(cgroup)
            if why:
                raise Unsupported(f"unable to start container process: {why}", remedy="give another cgroup parent") from error
            if isinstance(error, (OSError, *channel.SPEC_FAULTS)):
                raise channel.as_sampan_error(error) from error
            raise
        return Handle(pid, _VERSION, {"cgroup": cgroup.path, **creation.remembered(plan, request)})

    def start(self, handle: Handle) -> None:
        """Open the gate; returns when the program runs."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as starter:
            self._files.knock(starter)
            filters.await_program(starter, self._files, "created", handle.pid, handle.pid)
        if hooks := Hooks.kept(self._files):
            try:
                hooks.run("poststart", handle.pid)
            except SampanError:
                _cgroup_of(handle).kill()
                raise

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
            with opened_pidfd(handle.pid) as pidfd:
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
        except channel.SPEC_FAULTS as error:
            raise channel.as_sampan_error(error) from error
        check_console(process, request.stdio.console)
        cgroup = _cgroup_of(handle)
        try:
            return join(handle, cgroup, process, request.stdio, self._files)
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
            kind = Unsupported if error.errno == errno.EOPNOTSUPP else System
            raise kind(f"update: {error.strerror}") from error
        except channel.SPEC_FAULTS as error:
            raise InvalidArgument(f"update: {error}") from error

    def stats(self, handle: Handle) -> Stats:
        """Read the cgroup."""
        try:
            return _cgroup_of(handle).stats()
        except OSError as error:
            raise System(f"stats: {error.strerror}: {error.filename}") from error

    def processes(self, handle: Handle) -> tuple[int, ...]:
        """Read the cgroup's members, also those in cgroups below it."""
        return _cgroup_of(handle).procs()

    def oom_killed(self, handle: Handle) -> bool:
        """Ask the memory controller."""
        return _cgroup_of(handle).oom_kill_count() > 0

    # -- how

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
            if hooks := Hooks.kept(self._files):
                hooks.run_all("poststop")
            self._files.remove()
        except OSError as error:
            raise System(f"delete: {error.strerror}: {error.filename}", remedy="try again later") from error


def _no_user_namespaces() -> str:
    """Say why this kernel makes none, or ""."""
    limit = Path("/proc/sys/user/max_user_namespaces")
    if not limit.exists():
        return "the kernel was built without user namespaces (CONFIG_USER_NS)"
    if limit.read_text().strip() == "0":
        return f"user namespaces are switched off; to have them: write more than 0 to {limit}"
    return ""


def _no_time_namespaces() -> str:
    return "" if os.path.exists("/proc/self/ns/time") else "the kernel was built without time namespaces (CONFIG_TIME_NS)"  # noqa: PTH110


def _cgroup_of(handle: Handle) -> Cgroup:
    if handle.version != _VERSION:
        raise Unsupported(f"handle version {handle.version} is of another release of the native runtime")
    return Cgroup(handle.data["cgroup"])
