"""Runtimes that die or hang in the middle of a start, alone or with all of the engine: nothing of the container stays."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

from ground.daemon import Daemon, new_daemon, processes_of
from ground.leaks import check_nothing_left
from ground.waiting import wait_until

PROGRAM = """#!/bin/sh
{first}
{runc} "$@" || exit
case " $* " in *" create "*) touch {marker}; {then};; esac
"""


def runtime(daemon: Daemon, then: str = "", first: str = "") -> Path:
    """Settle a runtime `odd` that does something else `first`, creates a container and goes on `then`; give the file that tells
    of the creation.
    """
    program, marker, config = (daemon.base / name for name in ("odd", "created", "config.toml"))
    program.write_text(PROGRAM.format(runc=shutil.which("runc"), marker=marker, then=then or "true", first=first))
    program.chmod(0o755)
    config.write_text(f'[runtimes.odd]\ndriver = "oci"\nbinary = "{program}"\n')
    daemon.arguments += ["--config", str(config)]
    daemon.start()
    daemon.api("POST", "/sampan/images/bootstrap")
    return marker


def create(daemon: Daemon) -> str:
    asked = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"Runtime": "odd"}}
    return str(daemon.api("POST", "/containers/create", asked)["Id"])


def remove(daemon: Daemon, container: str) -> None:
    daemon.api("DELETE", f"/containers/{container}?force=1")
    check_nothing_left(daemon)


def test_a_launch_that_is_killed_leaves_no_cgroup() -> None:
    with new_daemon() as daemon:
        runtime(daemon, "kill -9 $PPID")
        container = create(daemon)
        status, answer = daemon.api_raw("POST", f"/containers/{container}/start")
        assert status == 500
        assert b"the runtime driver ended without an answer" in answer
        remove(daemon, container)
        daemon.stop()


JUNK = {
    "no pid": 'rm "$file"',
    "no number": 'echo x > "$file"',
    "no process": 'echo 4194304 > "$file"',
    "all processes": 'echo -1 > "$file"',
    "another's": 'echo 1 > "$file"',
}


def test_a_runtime_that_gives_another_pid_than_its_containers() -> None:
    with new_daemon() as daemon:
        then = daemon.base / "then"
        runtime(daemon, f'while [ "$1" != --pid-file ]; do shift; done; file=$2; . {then}')
        for case, junk in JUNK.items():
            then.write_text(junk)
            container = create(daemon)
            status, answer = daemon.api_raw("POST", f"/containers/{container}/start")
            assert status == 500, case
            words = b"watch process 1: " if case == "another's" else b"there is no process whose pid it gave"
            assert words in answer, case
            remove(daemon, container)
        daemon.stop()


def test_a_shim_whose_runtime_deletes_nothing_is_ended_with_the_container() -> None:
    with new_daemon() as daemon:
        runtime(daemon, first='case " $* " in *" delete "*) exit 1;; esac')
        container = create(daemon)
        daemon.api("POST", f"/containers/{container}/start")
        remove(daemon, container)
        daemon.stop()


def test_a_start_of_which_all_is_killed_leaves_nothing() -> None:
    """The program has created the container and hangs: there is no handle yet, and soon no shim that could say so."""
    with new_daemon() as daemon:
        created = runtime(daemon, "sleep 1000")
        container = create(daemon)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(daemon.socket))
            client.sendall(f"POST /containers/{container}/start HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            wait_until(created.exists, "the runtime has created the container")
            daemon.kill()
            for pid in processes_of(daemon):
                os.kill(pid, signal.SIGKILL)
        daemon.start()
        assert daemon.api("GET", f"/containers/{container}/json")["State"]["Status"] == "created"
        remove(daemon, container)
        daemon.stop()
