"""An interactive session: our standard streams on one side, a hijacked connection on the other, in one select loop."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from sampan.cli import terminal
from sampan.cli.client import Client
from sampan.cli.failure import CliError, DaemonError
from sampan.cli.stdcopy import STDERR, Demultiplexer
from sampan.cli.transport import Response

CHUNK = 65536

_NOT_FORWARDED = {
    signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG, signal.SIGWINCH,
    signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
    # faults of this process itself
    signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS,
}  # fmt: skip


class Session(NamedTuple):
    """What is joined to what. `target` is the API path of a container or exec, which has `/resize` and maybe `/kill`."""

    client: Client
    target: str
    tty: bool
    stdin: bool
    detach_keys: str
    forward_signals: bool


class Signals:
    """Signals as bytes of a pipe, so that the select loop hears them."""

    def __init__(self, read_end: int) -> None:
        self.fd = read_end

    def take(self) -> bytes:
        """Give the numbers of the signals that came."""
        try:
            return os.read(self.fd, 512)
        except BlockingIOError:
            return b""


@contextmanager
def catch(numbers: set[int]) -> Iterator[Signals]:
    """Turn these signals into bytes of a pipe for the body; restore their handlers after it."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    previous = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield Signals(read_end)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous)
        os.close(read_end)
        os.close(write_end)


@contextmanager
def prepared(session: Session) -> Iterator[Signals]:
    """Make the terminal raw if a tty is joined to it, and take over the signals, for the body."""
    with ExitStack() as stack:
        numbers: set[int] = {signal.SIGWINCH} if session.tty else set()
        if session.forward_signals:
            numbers |= {int(number) for number in signal.valid_signals() if number < signal.SIGRTMIN}
            numbers -= {int(number) for number in _NOT_FORWARDED}
        elif session.tty:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
                stack.callback(signal.signal, number, signal.signal(number, _leave))
        signals = stack.enter_context(catch(numbers))
        if session.tty and session.stdin and os.isatty(0):
            stack.enter_context(terminal.raw(0))
        yield signals


def _leave(number: int, _: Any) -> None:
    raise SystemExit(128 + number)


def resize(session: Session) -> None:
    """Tell the daemon the size of our terminal; that it has none, or the process is gone, is no error."""
    if session.tty and (found := terminal.size(1)):
        try:
            session.client.post(f"{session.target}/resize", {"h": found[0], "w": found[1]})
        except DaemonError:
            pass


def handle_signals(session: Session, signals: Signals) -> None:
    """Do what the signals that came ask for: a resize, or passing them on."""
    for number in signals.take():
        if number == signal.SIGWINCH:
            resize(session)
        elif session.forward_signals:
            try:
                session.client.post(f"{session.target}/kill", {"signal": _name(number)})
            except DaemonError:
                pass  # it has just exited, and its status tells that


def _name(number: int) -> str:
    return signal.Signals(number).name


def join(session: Session, response: Response, signals: Signals) -> bool:
    """Carry bytes both ways until the daemon ends the stream. Gives True if the user detached instead."""
    wire, first = response.detach()
    wire.socket.setblocking(False)
    write_out = _writer(session.tty)
    if first:
        write_out(first)
    keys = _keys(session)
    pending = b""
    reading_stdin, ended = session.stdin, False
    while True:
        readers = [wire.fileno(), signals.fd, *([0] if reading_stdin and not pending else [])]
        readable, writable, _ = select.select(readers, [wire.fileno()] if pending else [], [])
        if signals.fd in readable:
            handle_signals(session, signals)
        if wire.fileno() in readable:
            try:
                data = wire.receive()
            except (BlockingIOError, InterruptedError):
                continue
            except ConnectionResetError:
                return False
            if not data:
                return False
            write_out(data)
        if 0 in readable:
            typed = _read_stdin()
            if typed:
                pending = wire.encode(keys.feed(typed) if keys else typed)
                if keys and keys.seen:
                    return True
            else:
                reading_stdin, ended = False, True
                pending = wire.encode_end()
                if not pending:
                    _shut(wire.socket)
        if pending and wire.fileno() in writable:
            pending = _send(wire.socket, pending)
            if not pending and ended:
                _shut(wire.socket)


def _read_stdin() -> bytes:
    try:
        return os.read(0, CHUNK)
    except OSError:
        return b""  # a terminal that hung up


def _send(sock: socket.socket, data: bytes) -> bytes:
    """Send what can be sent now, and give the rest; a peer that reads no more swallows all."""
    try:
        return data[sock.send(data) :]
    except BlockingIOError:
        return data
    except (BrokenPipeError, ConnectionResetError):
        return b""


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the peer was first


def _keys(session: Session) -> terminal.DetachKeys | None:
    if not (session.tty and session.stdin):
        return None
    return terminal.DetachKeys(terminal.parse_keys(session.detach_keys or terminal.DEFAULT_KEYS))


def _writer(tty: bool) -> Callable[[bytes], None]:
    if tty:
        return lambda data: write_all(1, data)
    frames = Demultiplexer()

    def split(data: bytes) -> None:
        for stream, payload in frames.feed(data):
            write_all(2 if stream == STDERR else 1, payload)

    return split


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, waiting where the reader is slow."""
    sys.stdout.flush()
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])


def exit_status(session: Session, waiting: Response, signals: Signals) -> int:
    """Wait for the answer of `/wait`, passing on signals meanwhile; give the container's exit status."""
    while not waiting.has_body():
        readable, _, _ = select.select([waiting.fileno(), signals.fd], [], [])
        if signals.fd in readable:
            handle_signals(session, signals)
        if waiting.fileno() in readable:
            break
    answer = waiting.json()
    if not isinstance(answer, dict) or "StatusCode" not in answer:
        raise CliError("the daemon went away before the container's exit status was known", status=125)
    if error := (answer.get("Error") or {}).get("Message"):
        raise CliError(f"Error waiting for container: {error}", status=125)
    return int(answer["StatusCode"])
