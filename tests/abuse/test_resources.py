"""Containers and clients that take all they can: logs, processes, connections (A19, A21, A26, A27)."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ground.daemon import Daemon, processes_of
from ground.leaks import check_nothing_left
from ground.waiting import wait_until

CLIENTS = 200
GROWTH = 16 << 20
"""Bytes that a process may grow by over a flood."""

ANSWER_S = 5.0


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def _shim_of(daemon: Daemon, name: str) -> int:
    pid = daemon.api("GET", f"/containers/{name}/json")["State"]["Pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))


# ---------------------------------------------------------------- A19


def test_no_other_user_reads_root_or_state(daemon: Daemon) -> None:
    """Every directory on the way is closed; beyond `containers` and `volumes`, which a container's root needs to
    pass, nothing is open but what is bound into a container."""
    daemon.docker("run", "-d", "--name", "host", "-v", "data:/d", "busybox", "sh", "-c", "echo secret; sleep 600")
    assert stat.S_IMODE(daemon.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(daemon.state.stat().st_mode) == 0o700
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660
    for base in (daemon.root, daemon.state):
        for directory, names, files in os.walk(base):
            if "storage" in directory or directory.endswith("/_data"):
                names.clear()
                continue
            for name in files:
                path = Path(directory, name)
                mode = stat.S_IMODE(path.lstat().st_mode)
                if stat.S_ISSOCK(path.lstat().st_mode) or path.parent.name == "files":
                    continue
                assert not mode & 0o022, (path, oct(mode))
                if path.suffix == ".log" or "db" in path.name:
                    assert not mode & 0o037, (path, oct(mode))
    seen = daemon.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "ls", str(daemon.root), str(daemon.state), check=None)
    assert seen.stdout == b""


# ---------------------------------------------------------------- A21


def test_clients_that_drop_leave_nothing(daemon: Daemon) -> None:
    """CVE-2025-64329. Counted after a first wave, so that what is made once and kept does not count."""
    daemon.docker("run", "-d", "--name", "host", "busybox", "sh", "-c", "while :; do echo line; sleep 0.1; done")
    shim = _shim_of(daemon, "host")
    _wave(daemon, 20)
    _settled(daemon, _descriptors(daemon.pid), _descriptors(shim))
    before = [(_descriptors(pid), _threads(pid)) for pid in (daemon.pid, shim)]
    memory = [_resident(pid) for pid in (daemon.pid, shim)]
    _wave(daemon, CLIENTS)
    _settled(daemon, before[0][0], before[1][0])
    after = [(_descriptors(pid), _threads(pid)) for pid in (daemon.pid, shim)]
    for (descriptors, threads), (descriptors_before, threads_before) in zip(after, before, strict=True):
        assert descriptors <= descriptors_before
        assert threads <= threads_before + 8  # the pools fill up
    for pid, size in zip((daemon.pid, shim), memory, strict=True):
        assert _resident(pid) - size < GROWTH


def _wave(daemon: Daemon, count: int) -> None:
    for number in range(count):
        kind = number % 5
        if kind == 4:
            item = daemon.api("POST", "/containers/host/exec", {"Cmd": ["sleep", "0.2"], "AttachStdout": True, "AttachStdin": True})["Id"]
            request = f"POST /exec/{item}/start", "{}"
        else:
            request = (
                ("POST /containers/host/attach?stream=1&stdout=1&stderr=1&stdin=1", ""),
                ("GET /containers/host/logs?follow=1&stdout=1&stderr=1", ""),
                ("GET /events", ""),
                ("POST /containers/host/wait", ""),
            )[kind]
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(daemon.socket))
            upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n" if kind in (0, 4) else ""
            head = f"{request[0]} HTTP/1.1\r\nHost: x\r\n{upgrade}Content-Type: application/json\r\nContent-Length: {len(request[1])}\r\n\r\n"
            sock.sendall((head + request[1]).encode())
            if number % 2:
                sock.recv(1024)


def _settled(daemon: Daemon, daemon_fds: int, shim_fds: int) -> None:
    shim = _shim_of(daemon, "host")
    wait_until(lambda: len(daemon.api("GET", "/containers/host/json").get("ExecIDs") or []) == 0, "execs ended")
    wait_until(lambda: _descriptors(daemon.pid) <= daemon_fds and _descriptors(shim) <= shim_fds,
               f"descriptors of dropped clients closed: {_descriptors(daemon.pid)} of {daemon_fds}, {_descriptors(shim)} of {shim_fds}")  # fmt: skip


def test_execs_that_are_never_started_are_bounded(daemon: Daemon) -> None:
    """Each holds its request, which may be megabytes."""
    daemon.docker("run", "-d", "--name", "host", "busybox", "sleep", "600")
    asked = {"Cmd": ["true", "x" * 500_000]}
    for _ in range(150):
        daemon.api("POST", "/containers/host/exec", asked)
    before = _resident(daemon.pid)
    for _ in range(150):
        daemon.api("POST", "/containers/host/exec", asked)
    assert _resident(daemon.pid) - before < 2 * GROWTH


# ---------------------------------------------------------------- A26, A27


def _size(directory: Path) -> int:
    """Give the bytes of the files in a directory that is being rotated: one may be renamed as we look."""
    total = 0
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def test_log_flood_stays_within_its_files(daemon: Daemon) -> None:
    options = ("--log-opt", "max-size=200k", "--log-opt", "max-file=3")
    name = daemon.docker("run", "-d", "--name", "host", *options, "busybox", "yes", "x" * 200).stdout.decode().strip()
    logs = daemon.root / "containers" / name / "logs"
    shim = _shim_of(daemon, "host")
    wait_until(lambda: len(list(logs.iterdir())) >= 3, "rotated")
    before = [_resident(pid) for pid in (daemon.pid, shim)]
    end, most = time.monotonic() + 4, 0
    while time.monotonic() < end:
        most = max(most, _size(logs))
        time.sleep(0.05)
    assert 200_000 < most < 900_000
    for pid, size in zip((daemon.pid, shim), before, strict=True):
        assert _resident(pid) - size < GROWTH
    assert daemon.docker("logs", "--tail", "3", "host").stdout.count(b"\n") == 3


def test_line_without_end(daemon: Daemon) -> None:
    """Cut into records: neither shim nor daemon holds it whole."""
    daemon.docker("run", "-d", "--name", "host", "--log-opt", "max-size=1m", "busybox", "sh", "-c", "sleep 1; tr '\\0' x < /dev/zero")
    shim = _shim_of(daemon, "host")
    before = [_resident(pid) for pid in (daemon.pid, shim)]
    time.sleep(3)
    for pid, size in zip((daemon.pid, shim), before, strict=True):
        assert _resident(pid) - size < GROWTH


BOMB = 'sh -c "f() { f | f & }; while :; do f; done" & exec sleep 1000'
"""Its first process needs no more forks."""


def _pids_cgroup(daemon: Daemon) -> Path:
    """Give where the engine's containers are counted."""
    roots = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))
    (found,) = [path for root in roots if (path := root / "sampan" / daemon.engine_id).is_dir()]
    return found


@contextlib.contextmanager
def _net_below(cgroup: Path, limit: int) -> Iterator[None]:
    """Keep all containers together below a limit, so that a bomb without one of its own does not take the host's processes.

    It stays if the test fails, for then the bomb lives on until the daemon is taken down.
    """
    (cgroup / "pids.max").write_text(str(limit))
    yield
    (cgroup / "pids.max").write_text("max")


def _answers(daemon: Daemon) -> None:
    began = time.monotonic()
    for _ in range(5):
        assert daemon.api_raw("GET", "/_ping")[0] == 200
        daemon.api("GET", "/containers/json")
    assert daemon.docker("run", "--rm", "busybox", "echo", "here").stdout == b"here\n"
    assert time.monotonic() - began < 4 * ANSWER_S


def test_fork_bomb_within_its_limit(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--name", "idle", "busybox", "sleep", "600")
    engine = _pids_cgroup(daemon)
    with _net_below(engine, 400):
        name = daemon.docker("run", "-d", "--name", "host", "--pids-limit", "64", "busybox", "sh", "-c", BOMB).stdout.decode().strip()
        cgroup = engine / name
        wait_until(lambda: int((cgroup / "pids.current").read_text()) >= 60, "the bomb has come to its limit")
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert int((cgroup / "pids.current").read_text()) <= 64
            time.sleep(0.02)
        assert (cgroup / "pids.events").read_text() != "max 0\n"
        _answers(daemon)
        daemon.docker("rm", "-f", "host")
    assert not cgroup.exists()


def test_many_fork_bombs_at_once(daemon: Daemon) -> None:
    """Sixteen bombs, each within its limit: the daemon answers, starts others, and takes all of them away."""
    daemon.docker("run", "-d", "--name", "idle", "busybox", "sleep", "600")
    engine = _pids_cgroup(daemon)
    asked = {"Image": "busybox", "Cmd": ["sh", "-c", BOMB], "HostConfig": {"PidsLimit": 16}}
    with _net_below(engine, 400):
        names = [daemon.api("POST", "/containers/create", asked)["Id"] for _ in range(16)]
        for name in names:
            daemon.api("POST", f"/containers/{name}/start")
        wait_until(lambda: sum(int((engine / name / "pids.current").read_text()) for name in names) > 100, "the bombs are at work")
        _answers(daemon)
        for name in names:
            assert int((engine / name / "pids.current").read_text()) <= 16
            daemon.api("DELETE", f"/containers/{name}?force=1")
    assert [name for name in names if (engine / name).exists()] == []


# ---------------------------------------------------------------- everything at once


def test_random_operations_at_once_end_consistent(own_daemon: Daemon) -> None:
    """Eight clients do whatever comes to their minds with four names; only errors that Docker has are answered, and
    what is said at the end is what is there."""
    daemon, names, failures = own_daemon, ["a", "b", "c", "d"], []
    end = time.monotonic() + 8
    operations = (
        ("POST", "/containers/create?name={n}", {"Image": "busybox", "Cmd": ["sh", "-c", "sleep 0.3"], "Tty": False}),
        ("POST", "/containers/create?name={n}", {"Image": "busybox", "Cmd": ["sleep", "60"], "HostConfig": {"RestartPolicy": {"Name": "always"}}}),
        ("POST", "/containers/create?name={n}", {"Image": "busybox", "Cmd": ["sleep", "60"], "HostConfig": {"AutoRemove": True}}),
        ("POST", "/containers/{n}/start", None), ("POST", "/containers/{n}/start", None), ("POST", "/containers/{n}/stop?t=0", None),
        ("POST", "/containers/{n}/restart?t=0", None), ("POST", "/containers/{n}/kill", None), ("POST", "/containers/{n}/pause", None),
        ("POST", "/containers/{n}/unpause", None), ("POST", "/containers/{n}/rename?name={m}", None),
        ("DELETE", "/containers/{n}?force=1&v=1", None), ("DELETE", "/containers/{n}?v=1", None), ("GET", "/containers/{n}/json", None),
        ("GET", "/containers/json?all=1", None), ("POST", "/containers/{n}/exec", {"Cmd": ["true"]}),
    )  # fmt: skip

    def client(seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < end:
            method, path, body = chance.choice(operations)
            path = path.format(n=chance.choice(names), m=chance.choice(names))
            try:
                status, answer = daemon.api_raw(method, path, body)
            except OSError as error:
                failures.append(f"{method} {path}: {error!r}")
                return
            if status >= 500:
                failures.append(f"{method} {path}: {status} {answer[:300]!r}")

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), daemon.log[-4000:]
    assert "Traceback" not in daemon.log, daemon.log[-6000:]
    assert failures == []
    for found in daemon.api("GET", "/containers/json?all=1"):
        state = daemon.api("GET", f"/containers/{found['Id']}/json")["State"]
        assert state["Running"] == (state["Pid"] != 0)
        if state["Running"]:
            assert Path(f"/proc/{state['Pid']}").exists()
        assert daemon.api_raw("DELETE", f"/containers/{found['Id']}?force=1&v=1")[0] in (204, 404, 409)
    wait_until(lambda: daemon.api("GET", "/containers/json?all=1") == [], "all removed")
    wait_until(lambda: set(processes_of(daemon)) - {daemon.pid} == _kept(daemon), "no shim left")
    check_nothing_left(daemon)
    daemon.stop()


def _kept(daemon: Daemon) -> set[int]:
    """The zygote and what else serves the engine itself: children of the daemon."""
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    return {int(pid) for pid in children} & set(processes_of(daemon))
