"""Published ports while the daemon is away, or sampan-netd is: a stream loses no byte, and what broke comes back."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ground.daemon import Daemon
from ground.leaks import check_nothing_left
from ground.waiting import wait_until
from sampan.linux import namespaces

ECHO = ("busybox", "nc", "-ll", "-p", "7", "-e", "cat")
BLOCK, BLOCKS = 1 << 18, 12


def echo(daemon: Daemon) -> None:
    """Start a container that gives back what it gets, and wait until it does."""
    daemon.docker("run", "-d", "--name", "ee", "-p", "7007:7", *ECHO)
    wait_until(lambda: b":7 " in daemon.docker("exec", "ee", "netstat", "-ltn").stdout, "the server listens")


def finish(daemon: Daemon) -> None:
    daemon.docker("rm", "-f", "ee")
    check_nothing_left(daemon)
    daemon.stop()


@contextmanager
def connected(daemon: Daemon, address: str) -> Iterator[socket.socket]:
    client = namespaces.call_in_netns(daemon.netns, lambda: socket.create_connection((address, 7007), 20))
    with client:
        yield client


def answer(client: socket.socket, block: bytes) -> bytes:
    """Send a block and give as many bytes as come back."""
    client.sendall(block)
    parts = []
    while block and sum(map(len, parts)) < len(block):
        parts.append(client.recv(1 << 16))
        assert parts[-1], "the stream ended early"
    return b"".join(parts)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_stream_survives_the_daemon(own_daemon: Daemon, address: str) -> None:
    daemon = own_daemon
    echo(daemon)
    with connected(daemon, address) as client:
        for number in range(BLOCKS):
            if number == BLOCKS // 3:
                daemon.kill()
            if number == 2 * BLOCKS // 3:
                daemon.start()
            block = os.urandom(BLOCK)
            assert answer(client, block) == block
        with connected(daemon, address) as another:
            assert answer(another, b"as before") == b"as before"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b"", "the end arrives too"
    finish(daemon)


def test_what_sampan_netd_served_is_served_by_the_next_one(own_daemon: Daemon) -> None:
    daemon = own_daemon
    echo(daemon)
    with connected(daemon, "::1") as client:
        assert answer(client, b"before") == b"before"
        netd = _netd(daemon)
        os.kill(netd, signal.SIGKILL)
        with pytest.raises((ConnectionError, AssertionError)):
            answer(client, b"lost")
    with connected(daemon, "::1") as client:  # waits in the queue of a socket that the daemon holds as well
        assert answer(client, b"after") == b"after"
    assert _netd(daemon) != netd
    daemon.kill()
    os.kill(_netd(daemon), signal.SIGKILL)
    daemon.start()
    with connected(daemon, "::1") as client:
        assert answer(client, b"both were gone") == b"both were gone"
    finish(daemon)


def test_sockets_of_an_earlier_daemon_that_went_with_sampan_netd_are_made_anew(own_daemon: Daemon) -> None:
    daemon = own_daemon
    echo(daemon)
    with connected(daemon, "::1") as client:
        assert answer(client, b"before") == b"before"
    daemon.kill()
    daemon.start()
    os.kill(_netd(daemon), signal.SIGKILL)

    def is_answered() -> bool:
        with contextlib.suppress(ConnectionError, AssertionError), connected(daemon, "::1") as client:
            return answer(client, b"after") == b"after"
        return False

    wait_until(is_answered, "the port is reached over IPv6")
    finish(daemon)


def test_ports_that_somebody_flushed_are_back_after_a_restart(own_daemon: Daemon) -> None:
    daemon = own_daemon
    echo(daemon)
    for address in ("127.0.0.1", "::1"):
        with connected(daemon, address) as client:
            assert answer(client, b"before") == b"before"
    daemon.kill()
    daemon.run("nft", "flush", "ruleset")
    daemon.start()
    for address in ("127.0.0.1", "::1"):
        with connected(daemon, address) as client:
            assert answer(client, b"after") == b"after"
    finish(daemon)


def _netd(daemon: Daemon) -> int:
    """Find the process by its socket's place in its arguments."""
    found = subprocess.run(["pgrep", "-f", f"sampan-netd 3 {daemon.state}"], capture_output=True, text=True, check=True)
    pids = [int(pid) for pid in found.stdout.split() if Path(f"/proc/{pid}/comm").read_text().strip() == "sampan-netd"]
    assert len(pids) == 1, pids
    return pids[0]
