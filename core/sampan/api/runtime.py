"""The runtime contract: from an OCI bundle to a process, and back.

Runtime drivers run in the container's *shim*, one process per container that outlives the daemon. The shim's loop never runs
driver code: each operation runs in a forked child and its result crosses back as JSON. So a driver keeps nothing between
calls but the *handle* it returned from `create`, which is written to disk and passed to every later call.

The container's first process must end up as a child of the shim (which is a child subreaper: a double fork does that), or
of whatever the driver reports: the shim waits for `Handle.pid` itself.

This module and a runtime driver's `driver.py` import no pydantic: a shim must stay small. Settings arrive as plain data that
the daemon has validated with the driver's `config_model`.

Sources: OCI runtime spec 1.2 (`runtime.md`, `config-linux.md`); Nomad's task handles for recovery.
"""

from __future__ import annotations

import enum
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from sampan.api.driver import Driver
from sampan.api.errors import Unsupported
from sampan.linux.cgroup_stats import BlockCount, BlockStats, CpuStats, MemoryStats, PidsStats, Stats
from sampan.linux.mounts import Mount

__all__ = [
    "BlockCount", "BlockStats", "CheckpointRequest", "CpuStats", "CreateRequest", "ExecRequest", "Handle", "MemoryStats", "Mount",
    "PidsStats", "RuntimeCapability", "RuntimeContext", "RuntimeDriver", "Stats", "Stdio",
]  # fmt: skip

Spec = dict[str, Any]
"""An OCI runtime configuration (`config.json`) or a part of one, as parsed JSON."""


class RuntimeCapability(enum.StrEnum):
    """Optional parts of the contract."""

    EXEC = "exec"
    PAUSE = "pause"
    UPDATE = "update"
    CHECKPOINT = "checkpoint"
    """`checkpoint` and `restore` work."""
    OWN_NETWORK = "own-network"
    """Containers can have a network namespace given by the engine."""
    RECOVER = "recover"
    """Containers go on when their shim has died: `recover` works."""
    USER_NAMESPACE = "user-namespace"
    """Containers can have a user namespace given by the engine, with `idmap` mounts shown through it."""
    IDMAPPED_MOUNTS = "idmapped-mounts"
    """Bind mounts of the spec have shifted owners by maps of their own."""
    TIME_NAMESPACE = "time-namespace"
    """Containers can have clocks of their own."""
    HOOKS = "hooks"
    """The hooks of the spec run."""
    SECCOMP_NOTIFY = "seccomp-notify"
    """A seccomp profile can leave calls to who listens at its `listenerPath`."""


@dataclass(frozen=True, slots=True)
class Stdio:
    """The descriptors of a new process: either the three of them, or `console`.

    `console` is a connected unix stream socket. A driver that makes the terminal sends the master's descriptor over it with
    one byte by `SCM_RIGHTS`, as runc's `--console-socket` does; the terminal's slave becomes 0, 1, 2 of the process.
    All descriptors belong to the caller; the driver must not let any but 0, 1 and 2 reach the process, and as many from 3 on
    as `preserved` says: they are there under the same numbers.
    """

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1
    console: int = -1
    preserved: int = 0

    @property
    def descriptors(self) -> dict[str, int]:
        """Those of the four that are there, by name."""
        given = {"stdin": self.stdin, "stdout": self.stdout, "stderr": self.stderr, "console": self.console}
        return {name: fd for name, fd in given.items() if fd >= 0}


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What `create` gets. `bundle` holds `config.json`, the same as `spec`.

    `rootfs` are the mounts that make the root file system, in order, to be mounted where nobody else sees them. One with
    the option `idmap` is shown through the container's user namespace: on disk its owners are as if there were none.
    `netns` is the descriptor of a network namespace to join, or -1 to go by the spec alone. `userns` likewise of a user
    namespace, which owns that network namespace; its maps are also in the spec, as `linux.uidMappings` and `gidMappings`.
    """

    id: str
    bundle: Path
    spec: Spec
    rootfs: tuple[Mount, ...]
    stdio: Stdio
    netns: int = -1
    userns: int = -1


@dataclass(frozen=True, slots=True)
class CheckpointRequest:
    """Where `checkpoint` puts its files, an empty directory of the caller's, and whether the container goes on after it."""

    directory: Path
    leave_running: bool = False


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """One more process in a container. `process` is the OCI `process` object."""

    exec_id: str
    process: Spec
    stdio: Stdio


@dataclass(frozen=True, slots=True)
class Handle:
    """What a driver must remember of a container, as plain data. `version` is the driver's own, for its later self."""

    pid: int
    version: int = 1
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recovered:
    """A container that goes on without the shim that launched it.

    `wait` is called once, in the process of `recover` and after it, for as long as it takes: it gives the exit code, 0 to
    255, 128 + n for signal n, or raises `System` if nobody knows. The shim is not the parent any more, so the driver must
    find out (`sampan.linux.exits` helps). `streams` are the other ends of the container's, as far as they were kept, now
    the caller's: what stdin is written to and stdout and stderr are read from, or as `console` the terminal's master.
    """

    wait: Callable[[], int]
    streams: Stdio = field(default_factory=Stdio)


@dataclass(frozen=True, slots=True)
class RuntimeContext:
    """What a driver is built with: `state`, a directory of this container under the state directory, for the driver alone.

    `cache` is one that all containers of the driver share, for what each would make anew, or None. It need not be there yet;
    only root sees it; the engine empties it when it starts.
    """

    state: Path
    cache: Path | None = None


class RuntimeDriver(Driver):
    """Runs containers, version 1.0. See the module's text for the rules.

    A container's processes are in the cgroup `linux.cgroupsPath` of its spec, or in one below that: there the shim hears of
    kills for want of memory, and there the engine kills a container whose shim has died.
    """

    preload: ClassVar[bool] = False
    """Whether the zygote imports the module before it forks shims: only if that is small, fast and safe to fork."""

    def __init__(self, context: RuntimeContext, config: Mapping[str, Any]) -> None:
        """Keep the arguments; do nothing else. `config` is what the driver's `config_model` made of the settings."""
        self.context = context
        self.config = config

    @abstractmethod
    def create(self, request: CreateRequest) -> Handle:
        """Make namespaces, cgroups, mounts and the first process, which waits for `start`. All or nothing.

        Raises `InvalidArgument` for a bad spec, `Unsupported`, `System`. An error of the program itself, known before it
        starts, is `NotFound` for a missing file (exit code 127) and `Forbidden` for one that can't be run (126).
        """

    @abstractmethod
    def start(self, handle: Handle) -> None:
        """Let the first process run the program. Errors as `create`; afterwards the container is gone but for `delete`."""

    @abstractmethod
    def signal(self, handle: Handle, signum: int, *, everyone: bool = False) -> None:
        """Send a signal to the first process, or to all. `NotFound` if there is none."""

    @abstractmethod
    def delete(self, handle: Handle) -> None:
        """Kill what is left and remove every trace: cgroups, mounts, state. Idempotent, best-effort; `System` says what stays."""

    @abstractmethod
    def exec(self, handle: Handle, request: ExecRequest) -> int:
        """Start another process in the container and give its pid (in the shim's pid namespace); it is the shim's child
        by reparenting. Errors as `create`.
        """

    @abstractmethod
    def pause(self, handle: Handle) -> None:
        """Freeze every process. `Unsupported`, `System`."""

    @abstractmethod
    def resume(self, handle: Handle) -> None:
        """Thaw every process."""

    @abstractmethod
    def update(self, handle: Handle, resources: Spec) -> None:
        """Change limits: an OCI `linux.resources` object with what changes."""

    @abstractmethod
    def stats(self, handle: Handle) -> Stats:
        """Read the container's use of cpu, memory, pids and block devices."""

    @abstractmethod
    def processes(self, handle: Handle) -> tuple[int, ...]:
        """Give the pids of all processes of the container, in the shim's pid namespace."""

    @abstractmethod
    def oom_killed(self, handle: Handle) -> bool:
        """Say whether the kernel killed a process of the container for want of memory. Asked after the exit, before `delete`."""

    def recover(self, handle: Handle) -> Recovered | None:
        """Take up a container whose shim has died, in a fresh one; None if it can't go on. Default: None.

        With None, as after any error, the container is killed by its cgroup and recorded as ended with 255 and the reason.
        `Unsupported` for a handle whose `version` is of another release that this one can't read.
        """
        return None

    def checkpoint(self, handle: Handle, request: CheckpointRequest) -> None:
        """Write the container's processes to files; afterwards it has ended, unless it is to go on. `Unsupported`, `System`."""
        raise Unsupported(f"checkpoint a container: runtime {self.name!r} has no checkpoints")

    def restore(self, request: CreateRequest, checkpoint: Path) -> Handle:
        """As `create` and `start` in one, with the processes of a checkpoint. `Unsupported`, `System`."""
        raise Unsupported(f"restore a container: runtime {self.name!r} has no checkpoints")
