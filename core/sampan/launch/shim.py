"""The shim: one process per container, between the daemon and the container's first process.

It owns the pidfd, the pipes or the terminal, the log and the exit status, and answers whichever daemon
connects to `shim.sock`.
It outlives the daemon. Single-threaded; its loop runs no runtime driver code (see `operations`).

After a crash: if the daemon dies, nothing is lost, the next one connects. If the container ends while no
daemon is there,
`exit.json` tells it. If the shim itself is killed, its container's processes become children of init and
nobody reads their
output: the daemon sees the connection close (`Shim.closed`) and kills the container through its cgroup.

Sources: PR_SET_CHILD_SUBREAPER in prctl(2), pidfd_open(2), signal-safety of wakeup descriptors in Python's
`signal`.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sampan.api.errors import Conflict, InvalidArgument, NotFound, SampanError, System, Unsupported, to_wire
from sampan.api.logs import LogContext, LogWriter
from sampan.api.runtime import Handle
from sampan.launch import protocol, runtime_calls
from sampan.launch.connection import Connection, Request
from sampan.launch.loop import IN, Loop
from sampan.launch.operations import Operation, Operations, Step, monotonic_ns
from sampan.launch.process import Process
from sampan.launch.protocol import (
    EXIT,
    HANDLE,
    SOCKET,
    ExecConfig,
    ExecState,
    ExitRecord,
    Namespaces,
    ShimConfig,
    ShimState,
    Span,
)
from sampan.launch.streams import Streams, check_size
from sampan.linux import messages
from sampan.linux.mounts import lock_all, unlock_all
from sampan.linux.syscalls import PR_SET_CHILD_SUBREAPER, prctl

logger = logging.getLogger(__name__)

KEPT_EXECS = 128
"""How many ended execs are remembered for a daemon that asks late."""

OOM_TIMEOUT_S = 10.0
"""How long an exit waits for the driver to say whether memory had run out."""


class Shim:
    """One container. Each request of the daemon is a method named `_on_` and the operation."""

    def __init__(self, config: ShimConfig, namespaces: Namespaces, loop: Loop) -> None:
        """Get everything ready but the container: log, streams, socket. Raises `SampanError`, `OSError`."""
        self._config = config
        self._namespaces = namespaces
        self._loop = loop
        self._connections: set[Connection] = set()
        self._operations = Operations(self._loop, config.id, config.driver_timeout_s)
        runtime_calls.load_class(config.runtime)
        self._log = _open_log(config)
        self._main = Process(
            self._loop,
            Streams(
                self._loop, tty=config.tty, open_stdin=config.open_stdin, log=self._log, on_end=self._main_output_ended
            ),
            self._main_ended,
        )
        if config.console_size is not None:
            self._main.streams.resize(*config.console_size)
        self._execs: dict[str, Process] = {}
        self._unflushed: set[Streams] = set()
        self._ended_execs: OrderedDict[str, ExecState] = OrderedDict()
        self._waiters: list[Request] = []
        self._exec_waiters: dict[str, list[Request]] = {}
        self._handle: Handle | None = None
        self._launched = False
        self._locks: tuple[int, ...] = ()
        self._launcher: Operation | None = None
        self._launch: Request | None = None
        self._launch_began = 0
        self._started_at_ns = 0
        self._paused = False
        self._exit: ExitRecord | None = None
        self._removing = False
        self._deletion: Request | None = None
        self._deleted = False
        self._watch_children()
        self._listener = _listen(config.state_dir)
        self._loop.watch(self._listener.fileno(), IN, self._accept)

    def serve(self, sock: socket.socket, first: messages.Message | None = None) -> None:
        """Answer a daemon that has connected, and its `first` request if that was read already."""
        connection = Connection(self._loop, sock, self._answer, self._disconnected)
        self._connections.add(connection)
        if first is not None:
            self._answer(Request(connection, first, []))

    def run(self) -> None:
        """Serve until the container is deleted, and the attached streams have got what they are due."""
        self._loop.run()

    def close(self) -> None:
        """Let go of what the end of a process would; for one that goes on."""
        signal.set_wakeup_fd(-1)
        self._loop.close()
        for fd in self._wakeup:
            os.close(fd)
        for connection in tuple(self._connections):
            connection.close()
        self._listener.close()

    # Connections

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        self.serve(sock)

    def _disconnected(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._waiters = [waiter for waiter in self._waiters if waiter.connection is not connection]
        for exec_id, waiters in list(self._exec_waiters.items()):
            self._exec_waiters[exec_id] = [waiter for waiter in waiters if waiter.connection is not connection]
        if not self._connections and not self._launched:
            self._loop.stop()  # nothing runs, and nobody knows of us

    def _answer(self, request: Request) -> None:
        handler: Callable[[Request], None] | None = getattr(self, f"_on_{request.op}", None)
        try:
            if handler is None:
                version = ".".join(map(str, protocol.VERSION))
                raise Unsupported(
                    f"{request.op} container {self._config.id}: its shim speaks version {version} of the protocol",
                    remedy="start the container again to get a newer shim",
                )
            handler(request)
        except SampanError as error:
            request.fail(error)
        except OSError as error:
            request.fail(System(f"{request.op} container {self._config.id}: {error.strerror}"))
        except (KeyError, TypeError, ValueError) as error:
            request.fail(InvalidArgument(f"{request.op} container {self._config.id}: malformed request: {error!r}"))
        except Exception as error:  # a fault of ours in one request must not end the container
            logger.exception("%s container %s", request.op, self._config.id)
            request.fail(System(f"{request.op} container {self._config.id}: {error!r}"))
        finally:
            request.discard_fds()

    # Requests

    def _on_hello(self, request: Request) -> None:
        request.reply({"version": protocol.VERSION, "container": self._config.id, "pid": os.getpid()})
        if not self._launched and self._launcher is None:
            self._launcher = self._prepare_launch()  # 2 ms that pass while the daemon makes network and spec

    def _on_state(self, request: Request) -> None:
        execs = {key: ExecState(process.pid, None) for key, process in self._execs.items() if process.pid}
        state = ShimState(
            pid=self._main.pid,
            running=self._running,
            paused=self._paused,
            started_at_ns=self._started_at_ns,
            exit=self._exit,
            execs={**self._ended_execs, **execs},
        )
        request.reply(state.to_data())

    def _on_launch(self, request: Request) -> None:
        if self._launched:
            raise Conflict(f"launch container {self._config.id}: it was launched already")
        self._lock_root()
        self._launched = True
        (self._config.root_dir / EXIT).unlink(missing_ok=True)
        (self._config.state_dir / "runtime").mkdir(mode=0o700, exist_ok=True)
        self._launch = request
        self._launch_began = monotonic_ns()
        self._operations.begin(self._launcher or self._prepare_launch())

    def _on_attach(self, request: Request) -> None:
        self._main.streams.attach(request.take_fds(), stdin_eof_closes=bool(request.message["stdin_eof_closes"]))
        request.reply()

    def _on_wait(self, request: Request) -> None:
        if self._exit is not None:
            request.reply(self._exit.to_data())
        else:
            self._waiters.append(request)

    def _on_exec(self, request: Request) -> None:
        handle = self._require_running("exec in")
        config = ExecConfig.from_data(request.message["config"])
        if config.id in self._execs or config.id in self._ended_execs:
            raise Conflict(f"exec {config.id} in container {self._config.id}: the id is taken")
        if config.console_size is not None:
            check_size(*config.console_size)

        def ended(_: Process) -> None:
            self._exec_ended(config.id)

        def output_ended() -> None:
            process.output_ended()
            if streams.flushed:
                self._unflushed.discard(streams)
            self._leave_if_done()

        streams = Streams(
            self._loop, tty=config.tty, open_stdin=config.open_stdin, log=None, on_end=output_ended
        )
        process = Process(self._loop, streams, ended)
        self._execs[config.id] = process
        if config.console_size is not None:
            streams.resize(*config.console_size)
        streams.attach(request.take_fds(), stdin_eof_closes=True)

        def done(pid: Any, error: SampanError | None) -> None:
            if error is None:
                try:
                    process.started(pid)
                except System as problem:
                    error = problem
            if error is None:
                request.reply(pid)
            else:
                streams.handed_over()
                streams.input.abandon()
                del self._execs[config.id]
                request.fail(error)

        stdio = streams.stdio
        self._operations.run(
            Step("exec in", lambda: runtime_calls.execute(self._config, handle, config, stdio), done),
            fds=(stdio.stdin, stdio.stdout, stdio.stderr, stdio.console),
            makes_process=True,
        )

    def _on_wait_exec(self, request: Request) -> None:
        exec_id = request.message["exec_id"]
        ended = self._ended_execs.get(exec_id)
        if ended is not None and ended.exit is not None:
            request.reply(ended.exit.to_data())
            return
        self._find(exec_id)
        self._exec_waiters.setdefault(exec_id, []).append(request)

    def _on_signal(self, request: Request) -> None:
        signum = request.message["signum"]
        if request.message["everyone"]:
            self._call_driver(request, "signal", signum, everyone=True)
        else:
            self._require_running("send a signal to")
            self._main.signal(signum)
            request.reply()

    def _on_resize(self, request: Request) -> None:
        process = self._find(request.message["exec_id"])
        process.streams.resize(request.message["height"], request.message["width"])
        request.reply()

    def _on_close_stdin(self, request: Request) -> None:
        self._find(request.message["exec_id"]).streams.input.close()
        request.reply()

    def _on_pause(self, request: Request) -> None:
        self._call_driver(request, "pause", then=lambda: self._set_paused(True))

    def _on_resume(self, request: Request) -> None:
        self._call_driver(request, "resume", then=lambda: self._set_paused(False))

    def _on_update(self, request: Request) -> None:
        self._call_driver(request, "update", request.message["resources"])

    def _on_processes(self, request: Request) -> None:
        self._call_driver(request, "processes")

    def _on_stats(self, request: Request) -> None:
        handle = self._require_running("read statistics of")
        self._run(request, "read statistics of", lambda: runtime_calls.stats(self._config, handle))

    def _on_delete(self, request: Request) -> None:
        if self._deletion is not None:
            raise Conflict(f"delete container {self._config.id}: it is being deleted")
        if self._launched and self._handle is None and self._operations.making_process:
            raise Conflict(f"delete container {self._config.id}: it is being launched")
        self._deletion = request
        if self._handle is None:
            self._finish_deletion()
        elif not self._removing:  # as it is since the exit
            self._operations.run(self._removal(self._handle))

    # What the requests have in common

    @property
    def _running(self) -> bool:
        return self._main.alive

    def _require_running(self, doing: str) -> Handle:
        if not self._running or self._handle is None:
            raise Conflict(f"{doing} container {self._config.id}: it is not running")
        return self._handle

    def _find(self, exec_id: str) -> Process:
        if not exec_id:
            return self._main
        process = self._execs.get(exec_id)
        if process is None:
            raise NotFound(f"find exec {exec_id} in container {self._config.id}: no such process")
        return process

    def _set_paused(self, paused: bool) -> None:
        self._paused = paused

    def _call_driver(
        self, request: Request, method: str, *args: Any, then: Callable[[], None] = lambda: None, **options: Any
    ) -> None:
        handle = self._require_running(method)
        self._run(request, method, runtime_calls.call(self._config, handle, method, *args, **options), then)

    def _run(
        self, request: Request, name: str, work: Callable[[], Any], then: Callable[[], None] = lambda: None
    ) -> None:
        def done(result: Any, error: SampanError | None) -> None:
            if error is not None:
                request.fail(error)
            else:
                then()
                request.reply(result)

        self._operations.run(Step(name, work, done))

    # The container's life

    def _lock_root(self) -> None:
        """Hold what must be mounted in one place only, until the driver has removed the container or this process ends."""
        try:
            self._locks = lock_all(self._config.rootfs)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise Conflict(
                f"start container {self._config.id}: its root file system is mounted by another container or process",
                remedy="end what uses it",
            ) from error

    def _prepare_launch(self) -> Operation:
        """Fork the child that will launch the container."""
        stdio = self._main.streams.stdio
        return self._operations.prepare(
            Step("launch", lambda: runtime_calls.launch(self._config, stdio, self._namespaces), self._finish_launch),
            fds=(stdio.stdin, stdio.stdout, stdio.stderr, stdio.console, *self._namespaces.named[1]),
            makes_process=True,
        )

    def _finish_launch(self, result: Any, error: SampanError | None) -> None:
        self._launcher = None
        request, self._launch = self._launch, None
        if request is None:  # something has killed the child before it was needed: the launch forks another
            return
        self._namespaces.close()
        self._namespaces = Namespaces()
        if error is None:
            handle = result["handle"]
            self._handle = Handle(handle["pid"], handle["version"], handle["data"])
            self._started_at_ns = time.time_ns()
            try:
                self._main.started(self._handle.pid)
            except System as problem:
                error = problem
        else:
            self._handle = runtime_calls.read_handle(self._config.state_dir)
        if error is not None:
            self._main.streams.handed_over()
            self._main.streams.drain()  # a half-made process may hold them until the driver deletes it
            self._main.streams.input.abandon()
            for waiter in (request, *self._waiters):
                waiter.fail(error)
            self._waiters.clear()
            return
        spans = [Span(*span) for span in result["spans"]]
        spans.insert(0, Span("fork", "shim", self._launch_began, spans[0].start_ns))
        request.reply(protocol.Launched(self._main.pid, self._started_at_ns, tuple(spans)).to_data())

    def _main_output_ended(self) -> None:
        self._main.output_ended()
        self._leave_if_done()

    def _main_ended(self, _: Process) -> None:
        """The first process was reaped and its output read: ask for the reason, and let the driver remove the
        container at once, while the daemon does its part.
        """
        if self._handle is None:
            self._record_exit(False, None)
            return
        steps = [
            Step(
                "ask for the end of",
                runtime_calls.call(self._config, self._handle, "oom_killed"),
                self._record_exit,
                OOM_TIMEOUT_S,
            )
        ]
        if not self._removing:
            steps.append(self._removal(self._handle))
        self._operations.run(*steps)

    def _removal(self, handle: Handle) -> Step:
        self._removing = True
        return Step("delete", runtime_calls.call(self._config, handle, "delete"), self._removed)

    def _removed(self, _: Any, error: SampanError | None) -> None:
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

    def _record_exit(self, killed: Any, oom_error: SampanError | None) -> None:
        """Write the exit down, then tell it."""
        assert self._main.exit_code is not None
        problems = [self._main.streams.log_error]
        if oom_error is not None and self._deletion is None:
            problems.insert(0, str(oom_error))
        error = "; ".join(filter(None, problems))
        record = ExitRecord(self._main.exit_code, bool(killed), self._main.finished_at_ns, error)
        try:
            runtime_calls.write_file(self._config.root_dir / EXIT, json.dumps(record.to_data()).encode())
        except OSError as problem:
            logger.error("write %s: %s", self._config.root_dir / EXIT, problem.strerror)
        self._exit = record
        self._paused = False
        for waiter in self._waiters:
            waiter.reply(record.to_data())
        self._waiters.clear()
        if self._deletion is not None and self._handle is None:
            self._finish_deletion()

    def _exec_ended(self, exec_id: str) -> None:
        process = self._execs.pop(exec_id)
        self._unflushed.add(process.streams)
        process.streams.drain()
        if process.streams.flushed:
            self._unflushed.discard(process.streams)
        assert process.exit_code is not None
        record = ExitRecord(process.exit_code, False, process.finished_at_ns)
        self._ended_execs[exec_id] = ExecState(process.pid, record)
        while len(self._ended_execs) > KEPT_EXECS:
            self._ended_execs.popitem(last=False)
        for waiter in self._exec_waiters.pop(exec_id, ()):
            waiter.reply(record.to_data())

    def _finish_deletion(self) -> None:
        """The driver has removed the container. Wait for an exit that is not recorded yet, then take leave.
        """
        if self._launcher is not None:  # no launch was asked for
            self._operations.abandon(self._launcher)
            self._launcher = None
        _kill_children(self._operations.pids)
        self._reap()
        self._main.streams.handed_over()
        self._main.streams.drain()
        if self._main.pid and self._exit is None:
            return
        request, self._deletion = self._deletion, None
        if request is None:
            return
        self._main.streams.input.abandon()
        unlock_all(self._locks)
        self._locks = ()
        if self._log is not None:
            self._log.close()
            self._log = None
        for name in (SOCKET, HANDLE):
            (self._config.state_dir / name).unlink(missing_ok=True)
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        self._deleted = True
        request.reply()
        for connection in tuple(self._connections):
            connection.close()
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        """End the shim, unless an attached client is slow to take the last output."""
        if self._deleted and self._main.streams.flushed and not self._unflushed:
            self._loop.stop()

    # Children

    def _watch_children(self) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._wakeup = (reader, writer)

        def woken() -> None:
            try:
                os.read(reader, 4096)
            except BlockingIOError:
                pass
            self._reap()

        self._loop.watch(reader, IN, woken)

    def _reap(self) -> None:
        """Reap what has ended.

        While an operation may have made a process that we don't know of yet, only known children are
        reaped: an unknown one
        could be that process, and its pid must stay taken until we hold a pidfd.
        """
        progress = True
        while progress:
            progress = False
            for pid in (*self._operations.pids, *self._processes()):
                progress |= self._reap_one(pid)
            while not self._operations.making_process and self._reap_one(-1):
                progress = True

    def _reap_one(self, which: int) -> bool:
        try:
            pid, status = os.waitpid(which, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return False
        if not self._operations.reaped(pid, status):
            process = self._processes().get(pid)
            if process is not None:
                process.exited(status)
        return True

    def _processes(self) -> dict[int, Process]:
        return {process.pid: process for process in (self._main, *self._execs.values()) if process.alive}


def main(sock: socket.socket) -> None:
    """Be the shim of a container, in a process that the zygote has just forked. `sock` is the daemon's first
    connection; its first request has the configuration, and namespaces made for the container, with it.
    """
    received = messages.receive(sock)
    if received is None:
        return
    hello, fds = received
    os.setsid()
    os.chdir("/")
    os.umask(0o022)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        config = ShimConfig.from_data(hello.pop("config"))
        _set_name(f"shim {config.id}")
        _open_stderr(config.state_dir)
        namespaces = Namespaces(**dict(zip(hello.pop("namespaces"), fds, strict=True)))
        shim = Shim(config, namespaces, Loop())
    except (SampanError, OSError, KeyError, TypeError, ValueError) as error:
        _refuse(sock, hello, error)
        return
    try:
        shim.serve(sock, hello)
        shim.run()
    except BaseException:
        logger.exception("the shim of container %s fails", config.id)
        raise


def _refuse(sock: socket.socket, request: messages.Message, error: Exception) -> None:
    """Answer the first request with the reason why there is no shim."""
    if not isinstance(error, SampanError):
        error = System(f"set up a shim: {type(error).__name__}: {error}")
    messages.send(sock, messages.encode({"id": request.get("id"), "error": to_wire(error)}))


def _open_log(config: ShimConfig) -> LogWriter | None:
    if config.log is None:
        return None
    context = LogContext(config.id, config.log_directory, config.log_options, config.log_attributes)
    writer: LogWriter = runtime_calls.load_class(config.log).open_writer(context)
    return writer


def _listen(state_dir: Path) -> socket.socket:
    """Bind through a descriptor of the directory: a socket's address holds 107 bytes, a path may be longer.
    """
    (state_dir / SOCKET).unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.bind(f"/proc/self/fd/{directory}/{SOCKET}")
    finally:
        os.close(directory)
    sock.listen(16)
    sock.setblocking(False)
    return sock


def _open_stderr(state_dir: Path) -> None:
    """Let go of the daemon's streams; what goes wrong here is written to `shim.log`."""
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    errors = os.open(state_dir / "shim.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(null, 0)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    os.close(null)
    os.close(errors)


def _set_name(name: str) -> None:
    """As prctl(PR_SET_NAME) does, without a buffer of ctypes, whose new type alone writes to 37 pages."""
    fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, name.encode()[:15])
    finally:
        os.close(fd)


def _kill_children(spare: list[int]) -> None:
    """Kill what the driver has left of our children, if the kernel lists them (CONFIG_PROC_CHILDREN)."""
    try:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    except FileNotFoundError:
        return
    for pid in map(int, children.split()):
        if pid not in spare:
            os.kill(pid, signal.SIGKILL)
