"""SIGKILL of the daemon: containers go on, and a new daemon knows all that happened meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ground.daemon import Daemon
from ground.leaks import check_nothing_left
from sampan.launch.client import Shim

COUNT = "i=0; while [ ! -e /stop ]; do echo line $i; i=$((i+1)); usleep 2000; done; echo end $i; exit 7"
"""Writes numbered lines until it is told to stop, then how many there were."""


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 15.0) -> None:
    """Poll, where nothing tells us, until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Say whether a process has ended; a zombie that the host's init has not collected yet counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def children_of(daemon: Daemon) -> list[int]:
    done = subprocess.run(["pgrep", "-P", str(daemon.pid)], capture_output=True, text=True, check=True)
    return [int(pid) for pid in done.stdout.split()]


def log_lines(daemon: Daemon, name: str) -> list[str]:
    return daemon.docker("logs", name).stdout.decode().splitlines()


def inspect(daemon: Daemon, name: str) -> dict[str, object]:
    return daemon.api("GET", f"/containers/{name}/json")["State"]


def finish(daemon: Daemon) -> None:
    """Remove everything, and fail if anything stays."""
    for container in daemon.api("GET", "/containers/json?all=1"):
        daemon.api("DELETE", f"/containers/{container['Id']}?force=1&v=1")
    check_nothing_left(daemon)
    daemon.stop()


def test_a_container_goes_on_and_its_log_has_no_hole(own_daemon: Daemon) -> None:
    daemon = own_daemon
    daemon.docker("run", "-d", "--name", "ww", "busybox", "sh", "-c", COUNT)
    wait_until(lambda: len(log_lines(daemon, "ww")) > 20, "the container writes")
    pid = inspect(daemon, "ww")["Pid"]
    daemon.kill()
    assert Path(f"/proc/{pid}").exists()
    daemon.start()
    state = inspect(daemon, "ww")
    assert (state["Status"], state["Pid"]) == ("running", pid)
    daemon.docker("exec", "ww", "touch", "/stop")
    assert daemon.docker("wait", "ww").stdout.strip() == b"7"
    *lines, end = log_lines(daemon, "ww")
    assert lines == [f"line {i}" for i in range(int(end.removeprefix("end ")))]
    finish(daemon)


def test_an_exit_that_nobody_heard_is_found_later(own_daemon: Daemon) -> None:
    daemon = own_daemon
    daemon.docker("run", "-d", "--name", "ee", "busybox", "sh", "-c", "echo before; sleep 0.5; echo after; exit 9")
    pid = inspect(daemon, "ee")["Pid"]
    daemon.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the container ended")
    daemon.start()
    state = inspect(daemon, "ee")
    assert (state["Status"], state["ExitCode"]) == ("exited", 9)
    assert log_lines(daemon, "ee") == ["before", "after"]
    finish(daemon)


@pytest.mark.parametrize("status", ["running", "paused"])
def test_a_pause_that_the_daemon_did_not_come_to_record_is_seen(own_daemon: Daemon, status: str) -> None:
    daemon = own_daemon
    container = daemon.docker("run", "-d", "--name", "pp", "busybox", "sleep", "1000").stdout.decode().strip()
    if status == "running":
        daemon.docker("pause", "pp")
    daemon.kill()

    async def change() -> None:
        shim = await Shim.connect(daemon.state / "containers" / container)
        await (shim.resume() if status == "running" else shim.pause())
        await shim.close()

    asyncio.run(change())
    daemon.start()
    assert inspect(daemon, "pp")["Status"] == status
    if status == "paused":
        daemon.docker("unpause", "pp")
    daemon.docker("exec", "pp", "true")
    finish(daemon)


def test_a_shim_that_does_not_answer_holds_up_its_own_container_alone(own_daemon: Daemon) -> None:
    daemon = own_daemon
    for name in ("stuck", "free"):
        daemon.docker("run", "-d", "--name", name, "busybox", "sh", "-c", "trap 'exit 3' TERM; while :; do usleep 10000; done")
    shim = int(Path(f"/proc/{inspect(daemon, 'stuck')['Pid']}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(shim, signal.SIGSTOP)
    try:
        daemon.kill()
        daemon.start()
        assert "does not answer" in daemon.log
        daemon.docker("exec", "free", "true")
        assert inspect(daemon, "stuck")["Status"] == "running"
    finally:
        os.kill(shim, signal.SIGCONT)
    wait_until(lambda: daemon.docker("exec", "stuck", "true", check=False).returncode == 0, "it is found after all")
    daemon.docker("stop", "stuck")
    assert inspect(daemon, "stuck")["ExitCode"] == 3
    finish(daemon)


def test_after_a_restart_a_container_can_be_used_as_before(own_daemon: Daemon) -> None:
    daemon = own_daemon
    serve = "mkdir -p /w; echo hi > /w/index.html; httpd -f -p 80 -h /w"
    daemon.docker("run", "-d", "--name", "uu", "-p", "8080:80", "busybox", "sh", "-c", serve)
    address = ("127.0.0.1", "8080")
    fetch = ["busybox", "wget", "-qO-", f"http://{':'.join(address)}/index.html"]
    wait_until(lambda: daemon.run(*fetch, check=None).stdout == b"hi\n", "the published port answers")
    daemon.kill()
    assert daemon.run(*fetch).stdout == b"hi\n"
    daemon.start()
    assert daemon.run(*fetch).stdout == b"hi\n"
    assert daemon.docker("exec", "uu", "cat", "/w/index.html").stdout == b"hi\n"
    assert daemon.docker("port", "uu").stdout.startswith(b"80/tcp -> 0.0.0.0:8080")
    daemon.docker("stop", "-t", "1", "uu")
    assert inspect(daemon, "uu")["Status"] == "exited"
    finish(daemon)


def test_a_shim_that_is_killed_takes_its_container_along(own_daemon: Daemon) -> None:
    daemon = own_daemon
    daemon.docker("run", "-d", "--name", "ss", "busybox", "sleep", "1000")
    pid = int(str(inspect(daemon, "ss")["Pid"]))
    shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(shim, signal.SIGKILL)
    wait_until(lambda: inspect(daemon, "ss")["Status"] == "exited", "the daemon noticed")
    state = inspect(daemon, "ss")
    assert state["ExitCode"] == 255
    assert "shim" in str(state["Error"])
    wait_until(lambda: is_gone(pid), "the container's process is gone")
    finish(daemon)


def test_the_zygote_is_replaced(own_daemon: Daemon) -> None:
    daemon = own_daemon
    daemon.docker("run", "--rm", "busybox", "true")
    for child in children_of(daemon):
        os.kill(child, signal.SIGKILL)
    assert daemon.docker("run", "--rm", "busybox", "echo", "still here").stdout == b"still here\n"
    finish(daemon)


def test_a_start_goes_on_with_the_next_zygote(own_daemon: Daemon) -> None:
    daemon = own_daemon
    container = daemon.api("POST", "/containers/create", {"Image": "busybox", "Cmd": ["sleep", "1000"]})["Id"]
    (zygote,) = children_of(daemon)
    os.kill(zygote, signal.SIGSTOP)  # so that the start has asked it before it dies
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(daemon.api_raw, "POST", f"/containers/{container}/start")
        wait_until(lambda: (daemon.state / "containers" / container).is_dir(), "the shim's directory is ready")
        os.kill(zygote, signal.SIGKILL)
        assert starting.result() == (204, b"")
    finish(daemon)


@pytest.mark.parametrize("round", range(8))
def test_killed_at_any_point_of_a_start_nothing_is_left(own_daemon: Daemon, round: int) -> None:
    daemon = own_daemon
    daemon.docker("run", "--rm", "busybox", "true")
    client = subprocess.Popen(
        daemon.inside(["docker", "run", "--rm", "-p", "8081:81", "--name", "kk", "busybox", "sleep", "1000"]),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=daemon.client_environment(), pass_fds=(daemon.netns,),
    )  # fmt: skip
    time.sleep(0.02 + 0.015 * round)  # the point of the kill, not a wait for anything
    daemon.kill()
    client.wait(10)
    daemon.start()
    finish(daemon)


def test_two_daemons_on_one_root_are_refused(own_daemon: Daemon) -> None:
    done = own_daemon.run(*own_daemon.command(), "-H", f"unix://{own_daemon.base}/other.sock", check=1)
    assert b"another sampan daemon uses this directory" in done.stdout + done.stderr
    finish(own_daemon)


def test_a_connection_that_breaks_off_disturbs_nobody(own_daemon: Daemon) -> None:
    daemon = own_daemon
    daemon.docker("run", "-d", "--name", "aa", "busybox", "sh", "-c", "while true; do echo tick; usleep 10000; done")
    before = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    for _ in range(50):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(daemon.socket))
            sock.sendall(
                b"POST /containers/aa/attach?stream=1&stdout=1&stderr=1 HTTP/1.1\r\n"
                b"Host: x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n"
            )
            assert sock.recv(64).startswith(b"HTTP/1.1 101")
    wait_until(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) <= before + 2, "the descriptors are closed")
    assert inspect(daemon, "aa")["Status"] == "running"
    finish(daemon)
