"""`-t`: terminals, their size, and the keys that detach."""

from __future__ import annotations

import time

from compat.conftest import Client
from ground.waiting import wait_until


def test_a_shell_on_a_terminal(client: Client) -> None:
    with client.terminal("run", "-it", "--rm", "busybox", "sh") as terminal:
        terminal.expect(b"# ")
        terminal.type(b"tty; echo $((6*7)) $TERM\n")
        assert b"/dev/pts/0" in terminal.expect(b"42 xterm")
        terminal.type(b"exit 4\n")
        assert terminal.end() == 4


def test_the_size_is_the_clients_and_follows_it(client: Client) -> None:
    # docker's clients before API 1.42 tell the size only after the start, as Debian 12's does: until then it is 0 by 0: stty says nothing
    first = "until stty size 2>/dev/null | grep .; do sleep 0.05; done"
    script = f"trap 'stty size' WINCH; trap 'exit 0' INT; {first}; echo ready; while :; do sleep 0.05; done"
    with client.terminal("run", "-it", "--rm", "busybox", "sh", "-c", script, rows=33, columns=101) as terminal:
        assert b"33 101\r\n" in terminal.expect(b"ready\r\n")
        # docker's client loses a change between its first look at the size and its listening for SIGWINCH
        sizes = iter(range(122, 142))
        while True:
            columns = next(sizes)
            terminal.resize(44, columns)
            if terminal.shows(b"44 %d\r\n" % columns, seconds=1):
                break
        terminal.type(b"\x03")
        assert terminal.end() == 0


def test_control_c_interrupts(client: Client) -> None:
    script = "trap 'echo got it; exit 6' INT; echo ready; while :; do sleep 0.05; done"
    with client.terminal("run", "-it", "--rm", "busybox", "sh", "-c", script) as terminal:
        terminal.expect(b"ready")
        terminal.type(b"\x03")
        terminal.expect(b"got it")
        assert terminal.end() == 6


def test_keys_detach_and_attach_comes_back(client: Client) -> None:
    with client.terminal("run", "-it", "--name", "tt", "busybox", "sh") as terminal:
        terminal.expect(b"# ")
        terminal.type(b"\x10\x11")
        assert terminal.end() == 0
    assert client.out("inspect", "-f", "{{.State.Running}}", "tt") == "true"
    with client.terminal("attach", "--detach-keys", "ctrl-a,x", "tt") as terminal:
        terminal.type(b"echo back $((1+1))\n")
        terminal.expect(b"back 2\r\n")
        terminal.type(b"\x01x")
        terminal.end()
    assert client.out("inspect", "-f", "{{.State.Running}}", "tt") == "true"


def test_exec_on_a_terminal(client: Client) -> None:
    container = client.out("run", "-d", "busybox", "sleep", "60")
    with client.terminal("exec", "-it", container, "sh", rows=20, columns=90) as terminal:
        terminal.expect(b"# ")
        terminal.type(b"tty; echo done $((2+3))\n")
        assert b"/dev/pts/" in terminal.expect(b"done 5")
        terminal.resize(21, 91)
        deadline = time.monotonic() + 10
        while True:
            terminal.type(b"stty size; echo next $((3+4))\n")
            if b"21 91" in terminal.expect(b"next 7\r\n"):
                break
            assert time.monotonic() < deadline, "the size did not arrive"
        terminal.type(b"exit 9\n")
        assert terminal.end() == 9


def test_t_without_a_terminal_of_the_clients(client: Client) -> None:
    assert client("run", "-t", "--rm", "busybox", "echo", "hi").stdout == b"hi\r\n"
    refused = client("run", "-it", "--rm", "busybox", "true", stdin=b"", check=1 if client.name == "docker" else None)
    assert refused.returncode != 0
    assert b"TTY" in refused.stderr


def test_a_terminal_that_goes_away_leaves_the_container(client: Client) -> None:
    with client.terminal("run", "-it", "--name", "gone", "busybox", "sh", "-c", "echo ready; exec sleep 60") as terminal:
        terminal.expect(b"ready")
        terminal.process.kill()
    assert client.out("inspect", "-f", "{{.State.Running}}", "gone") == "true"
    client("kill", "gone")
    wait_until(lambda: client.out("inspect", "-f", "{{.State.Status}}", "gone") == "exited", "it has ended")
