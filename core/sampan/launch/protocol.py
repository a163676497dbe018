"""What daemon, zygote and shim say to each other: JSON datagrams over SEQPACKET sockets, descriptors by
`SCM_RIGHTS` (`sampan.linux.messages`).

A request is `{"id": N, "op": NAME, …}`, its answer `{"id": N, "result": …}` or `{"id": N, "error": {…}}`. Answers
may come out of order: `wait` is answered when it happens. The first request on a connection is `hello`, answered
with the protocol's version; to a new shim it brings the container's configuration. A daemon talks to shims of its
own major version and of any minor one.

Loaded into every shim: no pydantic, no asyncio.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sampan.linux.messages import Message
from sampan.linux.mounts import Mount

VERSION = (1, 1)
"""Major and minor version of the protocol. A new minor one only adds requests and fields.

1.1: `wait_oom`, `recover`, and `ooms` in the state.
"""

SOCKET = "shim.sock"
"""Name of a shim's socket in its state directory."""


@dataclass(frozen=True, slots=True)
class ClassRef:
    """Where to import a driver class from."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Descriptors of namespaces that the engine has made for a container, -1 for none: the user namespace owns the other."""

    network: int = -1
    user: int = -1

    @property
    def named(self) -> tuple[list[str], list[int]]:
        """Give the names of those that are there, and their descriptors."""
        given = [(name, fd) for name, fd in (("network", self.network), ("user", self.user)) if fd >= 0]
        return [name for name, _ in given], [fd for _, fd in given]

    def close(self) -> None:
        """Close the descriptors."""
        for fd in self.named[1]:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class ShimConfig:
    """All that a shim needs to know of its container.

    `bundle` holds the OCI `config.json`. `root_dir` is where `exit.json` will lie, `state_dir` where `shim.sock`, `handle.json`
    and the driver's own `runtime/` will. `cache_dir` is the driver's for all its containers, "" for none. `checkpoint` is the
    directory of one to restore, "" for none. `log` None keeps no log. `log_attributes` are labels, environment and tag that
    the log's options chose. `console_size` is (height, width). `driver_timeout_s` ends a runtime operation that hangs. Paths
    are strings: what a shim does with `pathlib` costs it 400 kB of memory that it would share otherwise.
    """

    id: str
    bundle: str
    root_dir: str
    state_dir: str
    runtime: ClassRef
    runtime_config: Mapping[str, Any] = field(default_factory=dict)
    log: ClassRef | None = None
    log_directory: str = ""
    log_options: Mapping[str, str] = field(default_factory=dict)
    log_attributes: Mapping[str, str] = field(default_factory=dict)
    rootfs: tuple[Mount, ...] = ()
    tty: bool = False
    open_stdin: bool = False
    console_size: tuple[int, int] | None = None
    driver_timeout_s: float = 120.0
    cache_dir: str = ""
    checkpoint: str = ""

    def to_data(self) -> Message:
        """Give the configuration as plain data."""
        return {
            "id": self.id,
            "bundle": self.bundle,
            "root_dir": self.root_dir,
            "state_dir": self.state_dir,
            "runtime": [self.runtime.module, self.runtime.name],
            "runtime_config": dict(self.runtime_config),
            "log": [self.log.module, self.log.name] if self.log else None,
            "log_directory": self.log_directory,
            "log_options": dict(self.log_options),
            "log_attributes": dict(self.log_attributes),
            "rootfs": [[m.type, m.source, list(m.options), m.target, m.lock] for m in self.rootfs],
            "tty": self.tty,
            "open_stdin": self.open_stdin,
            "console_size": self.console_size,
            "driver_timeout_s": self.driver_timeout_s,
            "cache_dir": self.cache_dir,
            "checkpoint": self.checkpoint,
        }

    @classmethod
    def from_data(cls, data: Message) -> ShimConfig:
        """Give back what `to_data` made."""
        return cls(
            id=data["id"],
            bundle=data["bundle"],
            root_dir=data["root_dir"],
            state_dir=data["state_dir"],
            runtime=ClassRef(*data["runtime"]),
            runtime_config=data["runtime_config"],
            log=ClassRef(*data["log"]) if data["log"] else None,
            log_directory=data["log_directory"],
            log_options=data["log_options"],
            log_attributes=data["log_attributes"],
            rootfs=tuple(Mount(kind, source, tuple(options), *places) for kind, source, options, *places in data["rootfs"]),
            tty=data["tty"],
            open_stdin=data["open_stdin"],
            console_size=_pair(data["console_size"]),
            driver_timeout_s=data["driver_timeout_s"],
            cache_dir=data["cache_dir"],
            checkpoint=data["checkpoint"],
        )


@dataclass(frozen=True, slots=True)
class ExecConfig:
    """One more process: `process` is the OCI `process` object, `console_size` is (height, width)."""

    id: str
    process: Mapping[str, Any]
    tty: bool = False
    open_stdin: bool = False
    console_size: tuple[int, int] | None = None

    def to_data(self) -> Message:
        """Give the configuration as plain data."""
        return {
            "id": self.id,
            "process": dict(self.process),
            "tty": self.tty,
            "open_stdin": self.open_stdin,
            "console_size": self.console_size,
        }

    @classmethod
    def from_data(cls, data: Message) -> ExecConfig:
        """Give back what `to_data` made."""
        return cls(data["id"], data["process"], data["tty"], data["open_stdin"], _pair(data["console_size"]))


@dataclass(frozen=True, slots=True)
class Span:
    """Where a part of the time went: `phase` by `driver`, from and to, in nanoseconds of CLOCK_MONOTONIC."""

    phase: str
    driver: str
    start_ns: int
    end_ns: int

    def to_data(self) -> list[Any]:
        """Give the span as plain data."""
        return [self.phase, self.driver, self.start_ns, self.end_ns]


@dataclass(frozen=True, slots=True)
class Launched:
    """A container that runs: its first process in the shim's pid namespace, since when (ns since the
    epoch), and the spans.
    """

    pid: int
    started_at_ns: int
    spans: tuple[Span, ...] = ()

    def to_data(self) -> Message:
        """Give the launch as plain data."""
        return {"pid": self.pid, "started_at_ns": self.started_at_ns, "spans": [s.to_data() for s in self.spans]}

    @classmethod
    def from_data(cls, data: Message) -> Launched:
        """Give back what `to_data` made."""
        return cls(data["pid"], data["started_at_ns"], tuple(Span(*span) for span in data["spans"]))


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """How a process ended: 0–255 (128 + signal for a killed one), and when, in nanoseconds since the epoch.

    `error` says what went wrong on our side, such as a log that could not be written; it is empty as a rule.
    """

    exit_code: int
    oom_killed: bool
    finished_at_ns: int
    error: str = ""

    def to_data(self) -> Message:
        """Give the record as plain data."""
        return {
            "exit_code": self.exit_code,
            "oom_killed": self.oom_killed,
            "finished_at_ns": self.finished_at_ns,
            "error": self.error,
        }

    @classmethod
    def from_data(cls, data: Message) -> ExitRecord:
        """Give back what `to_data` made."""
        return cls(data["exit_code"], data["oom_killed"], data["finished_at_ns"], data["error"])


@dataclass(frozen=True, slots=True)
class ExecState:
    """A process started by exec: it runs as long as `exit` is None."""

    pid: int
    exit: ExitRecord | None


@dataclass(frozen=True, slots=True)
class ShimState:
    """What a shim knows. `pid` is 0 before the launch. Of ended execs only the last ones are kept. `ooms` is how often it
    heard that the container had no memory left.
    """

    pid: int
    running: bool
    paused: bool
    started_at_ns: int
    exit: ExitRecord | None
    execs: Mapping[str, ExecState]
    ooms: int = 0

    def to_data(self) -> Message:
        """Give the state as plain data."""
        return {
            "pid": self.pid,
            "running": self.running,
            "paused": self.paused,
            "started_at_ns": self.started_at_ns,
            "exit": self.exit.to_data() if self.exit else None,
            "execs": {key: [e.pid, e.exit.to_data() if e.exit else None] for key, e in self.execs.items()},
            "ooms": self.ooms,
        }

    @classmethod
    def from_data(cls, data: Message) -> ShimState:
        """Give back what `to_data` made."""
        return cls(
            pid=data["pid"],
            running=data["running"],
            paused=data["paused"],
            started_at_ns=data["started_at_ns"],
            exit=ExitRecord.from_data(data["exit"]) if data["exit"] else None,
            execs={
                key: ExecState(pid, ExitRecord.from_data(ended) if ended else None)
                for key, (pid, ended) in data["execs"].items()
            },
            ooms=data.get("ooms", 0),
        )


def _pair(value: Sequence[int] | None) -> tuple[int, int] | None:
    return None if value is None else (value[0], value[1])
