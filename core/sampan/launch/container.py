"""The shim's container: launched or recovered, watched, ended, and removed by its driver."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from sampan.api.errors import Conflict, NotFound, SampanError, System
from sampan.api.logs import LogWriter
from sampan.api.runtime import Handle
from sampan.launch import protocol, records, runtime_calls
from sampan.launch.children import Children
from sampan.launch.connection import Request, Waiters
from sampan.launch.loop import Loop
from sampan.launch.memory import MemoryWatch
from sampan.launch.operations import Operation, Operations, Step, monotonic_ns
from sampan.launch.process import Process
from sampan.launch.protocol import ExitRecord, Namespaces, ShimConfig, Span
from sampan.launch.streams import Streams
from sampan.linux.mounts import lock_all, unlock_all

logger = logging.getLogger(__name__)

LOST = 255
"""Exit code of a container whose real one nobody knows, as Docker says."""

OOM_TIMEOUT_S = 10.0
"""How long an exit waits for the driver to say whether memory had run out."""


class Container:
    """One container. Its driver's handle is on disk from the launch to the removal."""

    def __init__(
        self, config: ShimConfig, namespaces: Namespaces, log: LogWriter | None,
        loop: Loop, operations: Operations, children: Children, on_progress: Callable[[], None],
    ) -> None:  # fmt: skip
        """`on_progress` is called when it was removed, and whenever an attached stream has got the last of what it is due."""
        self._config = config
        self._namespaces = namespaces
        self._log = log
        self._operations = operations
        self._children = children
        self._on_progress = on_progress
        streams = Streams(
            loop, tty=config.tty, open_stdin=config.open_stdin, log=log, on_end=self._output_ended
        )
        if config.console_size is not None:
            streams.resize(*config.console_size)
        self.main = Process(loop, streams, self._main_ended)
        """The first process."""
        self.launched = False
        """Whether the launch was begun."""
        self.removed = False
        """Whether the driver has removed it, and a daemon knows."""
        self.started_at_ns = 0
        self.paused = False
        self.exit: ExitRecord | None = None
        self.memory = MemoryWatch(loop)
        self._wait_error = ""
        self._waiters = Waiters()
        self._handle: Handle | None = None
        self._locks: tuple[int, ...] = ()
        self._launcher: Operation | None = None
        self._launch: Request | None = None
        self._launch_began = 0
        self._removing = False
        self._deletion: Request | None = None

    def require_running(self, doing: str) -> Handle:
        """Give the handle. Raises `Conflict` if the container does not run."""
        if not self.main.alive or self._handle is None:
            raise Conflict(f"{doing} container {self._config.id}: it is not running")
        return self._handle

    def prepare(self) -> None:
        """Fork the child that will launch the container, while the daemon makes network and spec."""
        if not self.launched and self._launcher is None:
            try:
                self._launcher = self._prepared()
            except OSError:
                pass  # there is no room for it now: the launch tries again, and tells

    def launch(self, request: Request) -> None:
        """Create and start it. Raises `Conflict`, `OSError`; what the driver says is answered later."""
        if self.launched:
            raise Conflict(f"launch container {self._config.id}: it was launched already")
        self._lock_root()
        records.remove_exit(self._config.root_dir)
        try:
            os.mkdir(f"{self._config.state_dir}/runtime", 0o700)
        except FileExistsError:
            pass
        launcher = self._launcher or self._prepared()
        self.launched = True
        self._launch = request
        self._launch_began = monotonic_ns()
        self._operations.begin(launcher)

    def recover(self, request: Request) -> None:
        """Take up the container of a shim that died, if the driver can. Raises `Conflict`, `NotFound`, `System`."""
        if self.launched:
            raise Conflict(f"recover container {self._config.id}: it was launched already")
        handle = records.read_handle(self._config.state_dir)
        started_at_ns, paused = request.message["started_at_ns"], request.message["paused"]
        self._drop_launcher()
        self._lock_root()
        ours, theirs = socket.socketpair()

        def done(answer: Any, error: SampanError | None) -> None:
            with ours:
                if error is None and answer is not None:
                    error = self._take_up(handle, answer, ours)
            if error is not None:
                request.fail(error)
                return
            self.started_at_ns, self.paused = started_at_ns, paused
            request.reply(answer is not None)

        recovery = runtime_calls.Recovery(self._config, handle, theirs)
        with theirs:
            self._operations.run(
                Step("recover", recovery.begin, done),
                Step("wait for", recovery.wait, self._waited, timeout_s=None),
                fds=(theirs.fileno(),),
            )

    def wait(self, request: Request) -> None:
        """Answer with the exit record, once there is one."""
        if self.exit is not None:
            request.reply(self.exit.to_data())
        else:
            self._waiters.add(request)

    def delete(self, request: Request) -> None:
        """Let the driver remove it, with all that still runs. Raises `Conflict`; what the driver says is answered later."""
        if self._deletion is not None:
            raise Conflict(f"delete container {self._config.id}: it is being deleted")
        if self.launched and self._handle is None and self._operations.making_process:
            raise Conflict(f"delete container {self._config.id}: it is being launched")
        self._deletion = request
        if self._handle is None:
            self._finish_deletion()
        elif not self._removing:  # as it is since the exit
            self._operations.run(self._removal(self._handle))

    # The launch

    def _lock_root(self) -> None:
        """Hold what must be mounted in one place only, until the driver has removed the container or this process ends."""
        if self._locks:
            return  # by a launch that came to nothing
        try:
            self._locks = lock_all(self._config.rootfs)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise Conflict(
                f"start container {self._config.id}: its root file system is mounted by another container or process",
                remedy="end what uses it",
            ) from error

    def _prepared(self) -> Operation:
        stdio = self.main.streams.stdio
        return self._operations.prepare(
            Step(
                "launch",
                lambda: runtime_calls.launch(self._config, stdio, self._namespaces),
                self._finish_launch,
                made=runtime_calls.launched_pid,
            ),
            fds=(*stdio.descriptors.values(), *self._namespaces.named[1]),
            makes_process=True,
        )

    def _drop_launcher(self) -> None:
        """No launch is asked for."""
        if self._launcher is not None:
            self._operations.abandon(self._launcher)
            self._launcher = None

    def _finish_launch(self, result: Any, error: SampanError | None) -> None:
        self._launcher = None
        request, self._launch = self._launch, None
        if request is None:  # something has killed the child before it was needed: the launch forks another
            return
        self._namespaces.close()
        self._namespaces = Namespaces()
        if error is None:
            error = self._watch(Handle(*result["handle"]))
        else:
            self._handle = self._kept_handle()
        if error is not None:
            self.main.streams.give_up()
            request.fail(error)
            self._waiters.fail(error)
            return
        self.started_at_ns = time.time_ns()
        cgroup = result["cgroup"]
        spans = [Span(*span) for span in result["spans"]]
        spans.insert(0, Span("fork", "shim", self._launch_began, spans[0].start_ns))
        request.reply(protocol.Launched(self.main.pid, self.started_at_ns, tuple(spans)).to_data())
        self.memory.watch(cgroup)

    def _watch(self, handle: Handle) -> System | None:
        self._handle = handle
        try:
            self.main.started(handle.pid)
        except System as error:
            return error
        self._children.adopt(self.main)
        return None

    def _kept_handle(self) -> Handle | None:
        """Give the handle of a launch that failed after the creation."""
        try:
            return records.read_handle(self._config.state_dir)
        except NotFound:
            return None

    # The recovery

    def _take_up(self, handle: Handle, answer: Any, streams: socket.socket) -> SampanError | None:
        names = answer["streams"]
        fds = socket.recv_fds(streams, 1, len(names), socket.MSG_CMSG_CLOEXEC)[1] if names else []
        self.main.streams.take_over(dict(zip(names, fds, strict=True)))
        try:
            self.main.recovered(handle.pid)
        except System as error:
            return error
        self._handle = handle
        self.launched = True
        self.memory.watch(answer["cgroup"])
        return None

    def _waited(self, code: Any, error: SampanError | None) -> None:
        """The driver says how a recovered container ended, or that nobody knows: then it is ended."""
        if not self.launched:
            return
        self._wait_error = "" if error is None else str(error)
        self.main.exited(LOST if error is not None else code)

    # The end

    def _output_ended(self) -> None:
        self.main.output_ended()
        self._on_progress()

    def _main_ended(self, _: Process) -> None:
        """The first process was reaped and its output read: ask for the reason, and let the driver remove the container at
        once, while the daemon does its part.
        """
        if self._handle is None:
            self._record_exit(False, None)
            return
        work = runtime_calls.call(self._config, self._handle, "oom_killed")
        steps = [Step("ask for the end of", work, self._record_exit, OOM_TIMEOUT_S)]
        if not self._removing:
            steps.append(self._removal(self._handle))
        self._operations.run(*steps)

    def _record_exit(self, oom_killed: Any, oom_error: SampanError | None) -> None:
        """Write the exit down, then tell it."""
        assert self.main.exit_code is not None
        problems = [self._wait_error, self.main.streams.log_error]
        if oom_error is not None and self._deletion is None:
            problems.insert(0, str(oom_error))
        error = "; ".join(filter(None, problems))
        record = ExitRecord(self.main.exit_code, bool(oom_killed), self.main.finished_at_ns, error)
        try:
            records.write_exit(self._config.root_dir, record)
        except OSError as problem:
            logger.error("write the exit of container %s: %s", self._config.id, problem.strerror)
        self.exit = record
        self.paused = False
        self._waiters.reply(record.to_data())
        if self._deletion is not None and self._handle is None:
            self._finish_deletion()

    def _removal(self, handle: Handle) -> Step:
        self._removing = True
        return Step("delete", runtime_calls.call(self._config, handle, "delete"), self._driver_removed)

    def _driver_removed(self, _: Any, error: SampanError | None) -> None:
        self._removing = False
        if error is None:
            self._handle = None
        if self._deletion is None:
            if error is not None:
                logger.warning("%s; the daemon's request to delete will try again", error)
        elif error is None:
            self._finish_deletion()
        else:
            request, self._deletion = self._deletion, None
            request.fail(error)

    def _finish_deletion(self) -> None:
        """The driver has removed the container: once its exit is recorded, let go of all and answer."""
        self._drop_launcher()
        self._children.end_orphans()
        self.main.streams.handed_over()
        self.main.streams.drain()
        if self.main.pid and self.exit is None:
            return
        request, self._deletion = self._deletion, None
        if request is None:
            return
        self.main.streams.input.abandon()
        self.memory.close()
        unlock_all(self._locks)
        self._locks = ()
        if self._log is not None:
            self._log.close()
            self._log = None
        records.remove_handle(self._config.state_dir)
        self.removed = True
        request.reply()
        self._on_progress()
