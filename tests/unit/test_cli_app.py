"""The command line as a program: exit statuses, errors in one line, light imports, and a terminal given back."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import socket
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

from sampan.cli import terminal
from sampan.cli.app import RootGroup, root, run
from sampan.cli.failure import CliError


@pytest.mark.parametrize(
    ("args", "status", "text"),
    [
        (["rnu"], 1, "Did you mean 'run'? See 'sampan --help'"),
        (["network", "lss"], 1, "Did you mean 'ls'?"),
        (["ps", "--wrong"], 125, "See 'sampan ps --help'"),
        (["rm"], 1, "'sampan rm' requires more arguments. Usage: sampan rm"),
        (["rename", "a", "b", "c"], 1, "got more arguments"),
        (["run", "-m", "1x", "busybox"], 125, "invalid size"),
        (["run", "--rm", "--restart", "always", "busybox"], 125, "cannot specify both"),
        (["-H", "ssh://x", "ps"], 1, "unknown scheme 'ssh'"),
        (["-H", "unix:///no/such.sock", "ps"], 1, "Start it as root with: sampan daemon -H unix:///no/such.sock"),
        (["-H", "unix:///no/such.sock", "run", "busybox"], 125, "cannot connect"),
        (["ps", "--filter", "x"], 125, "bad format of filter"),
    ],
)
def test_errors_are_one_line_with_a_remedy(
    args: list[str], status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(args) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if " gives no commands: " not in line]
    assert len(lines) == 1
    assert lines[0].startswith("sampan: ")
    assert text in lines[0]


def test_every_command_loads_and_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    def walk(group, path: list[str]) -> int:  # type: ignore[no-untyped-def]
        count = 0
        for name, entry in group.table.items():
            command = entry.load()
            assert run([*path, name, "--help"]) == 0
            assert "Usage: sampan" in capsys.readouterr().out
            count += 1
            if hasattr(command, "table"):
                count += walk(command, [*path, name])
        return count

    assert isinstance(root, RootGroup)
    assert walk(root, []) > 60


def test_start_up_imports_nothing_heavy() -> None:
    code = (
        "import sys, sampan.cli.app, sampan.cli.commands.containers, sampan.cli.commands.run;"
        "print(*sys.modules, sep='\\n')"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"asyncio", "pydantic", "http.client", "ssl", "pluggy", "importlib.metadata", "email", "subprocess"}
    assert heavy & set(loaded) == set()
    assert "sampan.cli.commands.images" not in loaded


def test_parse_keys() -> None:
    assert terminal.parse_keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert terminal.parse_keys("ctrl-@,a,ctrl-_") == b"\x00a\x1f"
    for text in ("", "ctrl-", "ab", "ctrl-1"):
        with pytest.raises(CliError, match="invalid detach keys"):
            terminal.parse_keys(text)


def test_detach_keys_are_held_back_only_while_they_may_be_meant() -> None:
    keys = terminal.DetachKeys(b"\x10\x11")
    assert keys.feed(b"a\x10") == b"a"
    assert keys.feed(b"b") == b"\x10b"
    assert keys.feed(b"\x10\x10") == b"\x10"
    assert not keys.seen
    assert keys.feed(b"\x11never sent") == b""
    assert keys.seen


def test_raw_mode_ends_with_an_exception() -> None:
    leader, follower = pty.openpty()
    try:
        before = termios.tcgetattr(follower)
        with pytest.raises(SystemExit), terminal.raw(follower):
            assert not termios.tcgetattr(follower)[3] & termios.ECHO
            raise SystemExit(1)
        assert termios.tcgetattr(follower) == before
    finally:
        os.close(leader)
        os.close(follower)


class Peer:
    """A scripted engine of one container whose process upper-cases its input, then exits with 7."""

    def __init__(self, path: Path, *, tty: bool) -> None:
        self.requests: list[str] = []
        self.tty = tty
        self.exited = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.threads: list[threading.Thread] = []
        self.acceptor = threading.Thread(target=self._accept)
        self.acceptor.start()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.acceptor.join()
        self.exited.set()
        for thread in self.threads:
            thread.join()
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.settimeout(10)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self.threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(65536)
            first = data.split(b"\r\n", 1)[0].decode().split(" ")
            self.requests.append(f"{first[0]} {first[1]}")
            path = first[1].partition("?")[0]
            if path == "/containers/create":
                _reply(connection, 201, {"Id": "c1", "Warnings": []})
            elif path == "/containers/c1/attach":
                self._attach(connection)
            elif path == "/containers/c1/wait":
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                self.exited.wait(10)
                with contextlib.suppress(BrokenPipeError):  # a client that detached waits no more
                    connection.sendall(b'{"StatusCode":7}')
            else:
                connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    def _typed(self, connection: socket.socket) -> bytes:
        try:
            return connection.recv(100)
        except ConnectionResetError:
            return b""  # a client that detaches may leave output unread

    def _attach(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 101 UPGRADED\r\n\r\n")
        if self.tty:
            connection.sendall(b"ready\r\n")
        while data := self._typed(connection):
            text = data.upper()
            connection.sendall(text if self.tty else b"\1\0\0\0" + len(text).to_bytes(4, "big") + text)
        if not self.tty:
            connection.sendall(b"\2\0\0\0\0\0\0\4last")
            self.exited.set()


def _reply(connection: socket.socket, status: int, value: object) -> None:
    data = json.dumps(value).encode()
    connection.sendall(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(data), data))


def test_run_joins_the_streams_and_gives_the_exit_status(tmp_path: Path) -> None:
    peer = Peer(tmp_path / "s", tty=False)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sampan.cli", "-H", f"unix://{tmp_path}/s", "run", "-i", "--rm", "busybox", "cat"],
            input=b"typed", capture_output=True, timeout=30, check=False,
        )  # fmt: skip
    finally:
        peer.close()
    assert (done.stdout, done.stderr, done.returncode) == (b"TYPED", b"last", 7)
    assert [request.partition("?")[0] for request in peer.requests] == [
        "POST /containers/create", "POST /containers/c1/attach", "POST /containers/c1/wait", "POST /containers/c1/start",
    ]  # fmt: skip
    assert "condition=removed" in peer.requests[2]


def test_detaching_from_a_tty_restores_the_terminal_and_leaves_the_container(tmp_path: Path) -> None:
    peer = Peer(tmp_path / "s", tty=True)
    leader, follower = pty.openpty()
    try:
        before = termios.tcgetattr(follower)
        process = subprocess.Popen(
            [sys.executable, "-m", "sampan.cli", "-H", f"unix://{tmp_path}/s", "run", "-it", "busybox"],
            stdin=follower, stdout=follower, stderr=follower,
        )  # fmt: skip
        _until(leader, b"ready")
        os.write(leader, b"a\x10b")
        _until(leader, b"A\x10B")
        os.write(leader, b"\x10\x11")
        assert process.wait(10) == 0
        assert termios.tcgetattr(follower) == before
        assert not peer.exited.is_set()
        assert any("/resize?h=" in request for request in peer.requests)
    finally:
        peer.close()
        os.close(leader)
        os.close(follower)


def _until(fd: int, text: bytes) -> None:
    seen = b""
    while text not in seen:
        assert select.select([fd], [], [], 10)[0], f"only {seen!r} came"
        seen += os.read(fd, 1000)
