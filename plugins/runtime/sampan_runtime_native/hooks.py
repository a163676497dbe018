"""OCI hooks: programs of the spec's author that run at moments of a container's life, with its state on their stdin.

`prestart` and `createRuntime` run in the driver while the first process waits with everything mounted, `createContainer` then
in that process, before the root is changed; `startContainer` in it too, as the container's user under its rights and filter,
just before the program. `poststart` and `poststop` run in the driver. A hook that fails ends the container, but for `poststop`,
of which the rest still run. For `poststart` and `poststop` hooks and state are kept in `Files`, until `poststop` has run: after
a driver that died halfway, `delete` runs it.

This module imports nothing later: two of its moments are inside a container.
Sources: OCI runtime spec 1.2, `config.md#posix-platform-hooks` and `runtime.md#lifecycle`; runc for what they leave open.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from sampan.api.errors import InvalidArgument, SampanError, System
from sampan.linux.mounts import MS_SHARED
from sampan.linux.syscalls import CLOSE_RANGE_CLOEXEC, close_range
from sampan_runtime_native.state import ContainerState

if TYPE_CHECKING:
    from pathlib import Path

    from sampan_runtime_native.files import Files
    from sampan_runtime_native.plan import Plan

_log = logging.getLogger(__name__)

_STATUS: Final = {
    "prestart": "creating", "createRuntime": "creating", "createContainer": "creating", "startContainer": "created",
    "poststart": "running", "poststop": "stopped",
}  # fmt: skip
MOMENTS: Final = tuple(_STATUS)
"""The names of the spec's `hooks` object, in the order in which they run."""
_OUTPUT: Final = 4096
_LONGEST: Final = 1_000_000
"""Seconds: twelve days. More is as good as for ever, and poll(2) does not hold it."""
_DEFAULTED: Final = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}


@dataclass(frozen=True, slots=True)
class Hook:
    """One program. `args` begin with its name; `timeout` in seconds, 0 for none."""

    path: str
    args: tuple[str, ...]
    env: Mapping[str, str]
    timeout: float

    @classmethod
    def of_spec(cls, entry: Mapping[str, Any], where: str) -> Hook:
        """Check an OCI hook. Raises `InvalidArgument`."""
        path, timeout = entry.get("path") or "", entry.get("timeout")
        if not path.startswith("/"):
            raise InvalidArgument(f"{where}: path {path!r} is not absolute")
        if timeout is not None and not timeout > 0:
            raise InvalidArgument(f"{where} {path}: timeout {timeout} is not greater than zero")
        args, env = tuple(entry.get("args") or (path,)), tuple(entry.get("env") or ())
        if "\0" in "".join((path, *args, *env)) or any(each[:1] in ("", "=") for each in env):
            raise InvalidArgument(f"{where} {path}: an argument or a variable has a NUL in it, or a variable no name")
        return cls(path, args, {name: value for name, _, value in (each.partition("=") for each in env)}, min(timeout or 0, _LONGEST))


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of a container and the state that they are given. `moments`: name in the spec → hooks in order."""

    moments: Mapping[str, tuple[Hook, ...]]
    state: ContainerState

    @classmethod
    def of_spec(cls, hooks: Mapping[str, Any], state: ContainerState) -> Hooks | None:
        """Check an OCI `hooks` object; None if it has none. Raises `InvalidArgument`."""
        if not any(hooks.values()):
            return None
        moments = {
            moment: tuple(Hook.of_spec(entry, f"hooks.{moment}[{index}]") for index, entry in enumerate(hooks.get(moment) or ()))
            for moment in _STATUS
        }
        return cls(moments, state)

    def keep(self, files: Files) -> None:
        """Keep them for `start` and `delete`."""
        entries = {moment: [asdict(hook) for hook in self.moments[moment]] for moment in ("poststart", "poststop")}
        files.save_hooks(json.dumps({"moments": entries, "state": self.state.to_data()}))

    def meet(self, files: Files, preserved: int, root: str) -> tuple[socket.socket, Visitors]:
        """Keep those for later, and give the driver's end of a meeting for `receive`, and what the first process gets."""
        self.keep(files)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return ours, Visitors(self, theirs, preserved, root)

    @classmethod
    def kept(cls, files: Files) -> Hooks | None:
        """Give what was kept: those that come after the program; None if there are none."""
        text = files.load_hooks()
        if not text:
            return None
        data = json.loads(text)
        moments = {
            moment: tuple(Hook(each["path"], tuple(each["args"]), each["env"], each["timeout"]) for each in hooks)
            for moment, hooks in data["moments"].items()
        }
        return cls(moments, ContainerState(**data["state"]))

    def run(self, moment: str, pid: int, preserved: int = 0) -> None:
        """Run those of a moment in order. `pid` is the first process as they see it; so many descriptors after the third are
        kept for it. Raises `SampanError` at the first that fails.
        """
        for index, hook in enumerate(self.moments[moment]):
            _run(hook, f"hooks.{moment}[{index}] {hook.path}", self._told(moment, pid), preserved)

    def run_all(self, moment: str, pid: int = 0) -> None:
        """Run those of a moment in order, and log what fails."""
        for index, hook in enumerate(self.moments[moment]):
            try:
                _run(hook, f"hooks.{moment}[{index}] {hook.path}", self._told(moment, pid), 0)
            except SampanError as error:
                _log.warning("%s", error)

    def _told(self, moment: str, pid: int) -> bytes:
        return json.dumps(self.state.at(_STATUS[moment], pid)).encode()


@dataclass(frozen=True, slots=True)
class Visitors:
    """Hooks as a new container's first process knows them; `driver` is its end of the socket between it and `receive`, and
    `preserved` is how many descriptors after the third are its program's. `root` is where in its view the container's root is
    to be mounted meanwhile.
    """

    hooks: Hooks
    driver: socket.socket
    preserved: int
    root: str

    def before_root(self) -> None:
        """With everything mounted: let the driver run its hooks, then run one's own. Raises `SampanError`."""
        with self.driver:
            self.driver.send(b"!")
            if not self.driver.recv(1):
                raise System("the driver gave up on this process")
        self.hooks.run("createContainer", os.getpid(), self.preserved)

    def before_program(self) -> None:
        """As the container's user. Raises `SampanError`."""
        self.hooks.run("startContainer", os.getpid(), self.preserved)

    @property
    def programs(self) -> Sequence[str]:
        """Give the paths of what `before_program` runs: they lead to wherever the container has them lead."""
        return [hook.path for hook in self.hooks.moments["startContainer"]]


def place_of_root(bundle: Path, plan: Plan) -> str:
    """Say where the root is to be mounted for hooks that mount something in it: where the bundle has it, if it has one there
    and what is mounted there does not reach the host; else over "/", as for everybody. Not for who is in a user namespace.
    """
    root = bundle / plan.root
    return str(root) if plan.root and root.is_dir() and not plan.root_propagation & MS_SHARED else "/"


def receive(process: socket.socket, hooks: Hooks, pid: int) -> None:
    """Wait until the first process has everything mounted, run the hooks of the runtime's side, and let it go on.

    Raises `SampanError`; a process that dies before tells why elsewhere.
    """
    with process:
        if process.recv(1):
            hooks.run("prestart", pid)
            hooks.run("createRuntime", pid)
            process.send(b"!")


def _run(hook: Hook, what: str, state: bytes, preserved: int) -> None:
    """Run one to its end. Raises `System` with what it has written, if that is not 0 or does not come in time."""
    close_range(3 + preserved, flags=CLOSE_RANGE_CLOEXEC)
    stdin = os.memfd_create("state")
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            os.write(stdin, state)
            os.lseek(stdin, 0, os.SEEK_SET)
            actions = [
                *((os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((stdin, writer, writer))),
                *((os.POSIX_SPAWN_CLOSE, fd) for fd in range(3, 3 + preserved)),
            ]
            pid = os.posix_spawn(hook.path, hook.args, hook.env, file_actions=actions, setsigmask=(), setsigdef=_DEFAULTED)
        finally:
            os.close(stdin)
            os.close(writer)
        output = _follow(pid, reader, hook.timeout)
        _, status = os.waitpid(pid, 0)
    except OSError as error:
        raise System(f"{what}: {os.strerror(error.errno or 0).lower()}") from error
    finally:
        os.close(reader)
    code = os.waitstatus_to_exitcode(status)
    if output.late:
        raise System(f"{what}: it ran past its timeout of {hook.timeout} s and was killed{output.quoted}")
    if code:
        raise System(f"{what}: {f'exit status {code}' if code > 0 else f'killed by signal {-code}'}{output.quoted}")


@dataclass(frozen=True, slots=True)
class _Output:
    """The last that a hook wrote, and whether it was too late."""

    tail: bytes
    late: bool

    @property
    def quoted(self) -> str:
        text = self.tail.decode(errors="replace").strip()
        return f": {text}" if text else ""


def _follow(pid: int, reader: int, timeout: float) -> _Output:
    """Read what a process writes until it has ended, or kill it. What it leaves running may hold the pipe for ever."""
    deadline = time.monotonic() + timeout if timeout else 0.0
    tail = b""
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(reader, select.POLLIN)
        while True:
            ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000 if timeout else None))
            if not ready:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                return _Output(tail, late=True)
            if reader in ready:
                data = os.read(reader, 1 << 16)
                tail = (tail + data)[-_OUTPUT:]
                if not data:
                    poll.unregister(reader)
            if pidfd in ready:
                return _Output(tail, late=False)
    finally:
        os.close(pidfd)
