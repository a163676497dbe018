"""The shim: one process per container, between the daemon and the container's first process.

It owns the pidfd, the pipes or the terminal, the log and the exit status, and answers whichever daemon connects to
`shim.sock`. It outlives the daemon. Single-threaded; its loop runs no runtime driver code (see `operations`).

After a crash: if the daemon dies, nothing is lost, the next one connects. If the container ends while no daemon is there,
`exit.json` tells it. If the shim itself is killed, its container's processes become children of init and nobody reads
their output: the daemon sees the connection close (`Shim.closed`). It asks a fresh shim to `recover` the container if its
driver can do that, and else kills it through its cgroup.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from sampan.api.errors import InvalidArgument, SampanError, System, Unsupported
from sampan.api.logs import LogContext, LogWriter
from sampan.launch import protocol, runtime_calls
from sampan.launch.children import Children
from sampan.launch.connection import Connection, Request
from sampan.launch.container import Container
from sampan.launch.execs import Execs
from sampan.launch.loop import IN, Loop
from sampan.launch.operations import Operations, Step
from sampan.launch.process import Process
from sampan.launch.protocol import SOCKET, Namespaces, ShimConfig, ShimState
from sampan.linux import messages

logger = logging.getLogger(__name__)

RETRY_S = 0.2
"""How long a shim without room for a connection lets it wait before it tries again."""


class Shim:
    """Answers for one container. Each request of the daemon is a method named `_on_` and the operation."""

    def __init__(self, config: ShimConfig, namespaces: Namespaces, loop: Loop) -> None:
        """Get everything ready but the container: log, streams, socket. Raises `SampanError`, `OSError`."""
        self._config = config
        self._loop = loop
        self._connections: set[Connection] = set()
        self._operations = Operations(loop, config.id, config.driver_timeout_s)
        runtime_calls.load_class(config.runtime)
        log = _open_log(config)
        self._children = Children(loop, self._operations)
        self._container = Container(
            config, namespaces, log, loop, self._operations, self._children, self._leave_if_done
        )
        self._execs = Execs(config, loop, self._operations, self._children, self._leave_if_done)
        self._listener = _listen(config.state_dir)
        self._watch_listener()

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
        self._children.close()
        for connection in tuple(self._connections):
            connection.close()
        self._listener.close()
        self._loop.close()

    # Connections

    def _watch_listener(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.watch(self._listener.fileno(), IN, self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # there is no room for it: who is at the door has to wait
            logger.warning("let a daemon in to container %s: %s", self._config.id, error.strerror)
            self._loop.unwatch(self._listener.fileno())
            self._loop.call_later(RETRY_S, self._watch_listener)
            return
        self.serve(sock)

    def _disconnected(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections and not self._container.launched:
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

    def _leave_if_done(self) -> None:
        """End once the container is removed, unless an attached client is slow to take the last output."""
        if not self._container.removed:
            return
        if self._listener.fileno() >= 0:
            self._loop.unwatch(self._listener.fileno())
            self._listener.close()
            _remove_socket(self._config.state_dir)
            for connection in tuple(self._connections):
                connection.close()
        if self._container.main.streams.flushed and self._execs.flushed:
            self._loop.stop()

    # Requests

    def _on_hello(self, request: Request) -> None:
        request.reply({"version": protocol.VERSION, "container": self._config.id, "pid": os.getpid()})
        self._container.prepare()

    def _on_state(self, request: Request) -> None:
        container = self._container
        state = ShimState(
            pid=container.main.pid,
            running=container.main.alive,
            paused=container.paused,
            started_at_ns=container.started_at_ns,
            exit=container.exit,
            execs=self._execs.states,
            ooms=container.memory.count,
        )
        request.reply(state.to_data())

    def _on_launch(self, request: Request) -> None:
        self._container.launch(request)

    def _on_attach(self, request: Request) -> None:
        streams = self._container.main.streams
        streams.attach(request.take_fds(), stdin_eof_closes=bool(request.message["stdin_eof_closes"]))
        request.reply()

    def _on_wait(self, request: Request) -> None:
        self._container.wait(request)

    def _on_recover(self, request: Request) -> None:
        self._container.recover(request)

    def _on_wait_oom(self, request: Request) -> None:
        self._container.memory.wait(request)

    def _on_exec(self, request: Request) -> None:
        self._execs.start(request, self._container.require_running("exec in"))

    def _on_wait_exec(self, request: Request) -> None:
        self._execs.wait(request)

    def _on_signal(self, request: Request) -> None:
        signum = request.message["signum"]
        if request.message["everyone"]:
            self._call_driver(request, "signal", signum, everyone=True)
        else:
            self._container.require_running("send a signal to")
            self._container.main.signal(signum)
            request.reply()

    def _on_resize(self, request: Request) -> None:
        self._process(request).streams.resize(request.message["height"], request.message["width"])
        request.reply()

    def _on_close_stdin(self, request: Request) -> None:
        self._process(request).streams.input.close()
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
        handle = self._container.require_running("read statistics of")
        self._run(request, "read statistics of", lambda: runtime_calls.stats(self._config, handle))

    def _on_checkpoint(self, request: Request) -> None:
        handle = self._container.require_running("checkpoint")
        directory, leave_running = request.message["directory"], request.message["leave_running"]
        self._run(request, "checkpoint", runtime_calls.checkpoint(self._config, handle, directory, leave_running))

    def _on_delete(self, request: Request) -> None:
        self._container.delete(request)

    # What the requests have in common

    def _process(self, request: Request) -> Process:
        exec_id = request.message["exec_id"]
        return self._execs.find(exec_id) if exec_id else self._container.main

    def _set_paused(self, paused: bool) -> None:
        self._container.paused = paused

    def _call_driver(
        self, request: Request, method: str, *args: Any, then: Callable[[], None] = lambda: None, **options: Any
    ) -> None:
        handle = self._container.require_running(method)
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


def _remove_socket(state_dir: str) -> None:
    try:
        os.unlink(f"{state_dir}/{SOCKET}")
    except FileNotFoundError:
        pass


def _open_log(config: ShimConfig) -> LogWriter | None:
    if config.log is None:
        return None
    context = LogContext(config.id, config.log_directory, config.log_options, config.log_attributes)
    writer: LogWriter = runtime_calls.load_class(config.log).open_writer(context)
    return writer


def _listen(state_dir: str) -> socket.socket:
    """Bind through a descriptor of the directory: a socket's address holds 107 bytes, a path may be longer."""
    _remove_socket(state_dir)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.bind(f"/proc/self/fd/{directory}/{SOCKET}")
    finally:
        os.close(directory)
    sock.listen(16)
    sock.setblocking(False)
    return sock
