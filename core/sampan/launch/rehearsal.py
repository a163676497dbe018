"""A shim's life, lived once in the zygote before it forks any.

CPython learns by doing: first calls fill the caches of types' attributes, make lazily what is made once and
specialise bytecode, and write all that into the objects. Done here it is done for all: shims and their children
find it in pages that they share. It takes about 15 ms of the zygote's start, and saves each shim 280 kB of private
memory and a fourth of its processor time up to the first answer (measured; a second life saves no more).
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

from sampan.api.errors import System, from_wire
from sampan.api.runtime import CreateRequest, ExecRequest, Handle, RuntimeContext
from sampan.launch import protocol
from sampan.launch.loop import IN, Loop
from sampan.launch.protocol import ClassRef, ExecConfig, Namespaces, ShimConfig
from sampan.launch.shim import Shim
from sampan.linux import messages
from sampan.linux.namespaces import CLONE_PARENT
from sampan.linux.processes import clone
from sampan.linux.syscalls import PR_SET_CHILD_SUBREAPER, prctl

TIMEOUT_S = 10.0


def rehearse(directory: Path, log: ClassRef | None) -> None:
    """Live in an empty directory, with that log if any; no process or descriptor is left. Raises `SampanError`, `OSError`."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        _live(directory, log)
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as the zygote has it


def _live(directory: Path, log: ClassRef | None) -> None:
    state_dir = directory / "state"
    state_dir.mkdir()
    (directory / "config.json").write_text("{}")
    runtime = ClassRef(__name__, Understudy.__name__)
    config = ShimConfig(
        "rehearsal", str(directory), str(directory), str(state_dir), runtime,
        log=log, log_directory=str(directory), open_stdin=True, driver_timeout_s=TIMEOUT_S,
    )
    loop = Loop()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with ours, os.fdopen(reader, "rb"):
        shim = Shim(ShimConfig.from_data(config.to_data()), Namespaces(), loop)
        shim.serve(theirs)
        try:
            requests = _requests(os.dup(writer))
            _send_next(ours, requests)
            loop.watch(ours.fileno(), IN, lambda: _proceed(ours, requests))
            shim.run()
        finally:
            os.close(writer)
            shim.close()


Requests = Iterator[tuple[messages.Message, list[int]]]


def _requests(stdout: int) -> Requests:
    """Give what a daemon asks: of a container that has one more process, up to the end of both."""
    process = ExecConfig("one more", {}, open_stdin=True)
    yield {"op": "hello", "version": protocol.VERSION}, []
    yield {"op": "attach", "names": ["stdout"], "stdin_eof_closes": False}, [stdout]
    os.close(stdout)
    yield {"op": "launch"}, []
    yield {"op": "state"}, []
    yield {"op": "exec", "names": [], "config": process.to_data()}, []
    yield {"op": "close_stdin", "exec_id": process.id}, []
    yield {"op": "wait_exec", "exec_id": process.id}, []
    yield {"op": "close_stdin", "exec_id": ""}, []
    yield {"op": "wait"}, []
    yield {"op": "delete"}, []


def _send_next(sock: socket.socket, requests: Requests) -> None:
    following = next(requests, None)
    if following is not None:
        message, fds = following
        messages.send(sock, messages.encode({"id": 0, **message}), fds)


def _proceed(sock: socket.socket, requests: Requests) -> None:
    received = messages.receive(sock)
    if received is None:
        raise System("rehearse: the shim went away")
    if "error" in received[0]:
        raise from_wire(received[0]["error"])
    _send_next(sock, requests)


class Understudy:
    """Stands for a runtime driver: its containers are processes that say a line and end with their input."""

    name = "understudy"

    def __init__(self, context: RuntimeContext, config: object) -> None:
        """Keep nothing."""

    def create(self, request: CreateRequest) -> Handle:
        """Fork the first process."""
        return Handle(_fork(request.stdio.stdin, request.stdio.stdout))

    def start(self, handle: Handle) -> None:
        """It runs already."""

    def exec(self, handle: Handle, request: ExecRequest) -> int:
        """Fork one more."""
        return _fork(request.stdio.stdin, request.stdio.stdout)

    def oom_killed(self, handle: Handle) -> bool:
        """No."""
        return False

    def delete(self, handle: Handle) -> None:
        """Nothing is there."""


def _fork(stdin: int, stdout: int) -> int:
    pid = clone(CLONE_PARENT)
    if pid == 0:
        try:
            os.write(stdout, b"line\n")
            os.read(stdin, 1)
        finally:
            os._exit(0)
    return pid
