"""sampan-runtime under the stock dockerd: what `docker` does to a container, it does to one of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ground.dockerd import Dockerd, running_dockerd
from ground.terminal import Terminal
from sampan.testing.rootfs import build_rootfs

SERVER = "echo page > /tmp/index.html; trap 'exit 5' TERM; httpd -f -p 80 -h /tmp & wait"


@pytest.fixture(scope="module")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    base = tmp_path_factory.mktemp("dockerd")
    program = base / "sampan-runtime"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m sampan_runtime_native.cli "$@"\n')
    program.chmod(0o755)
    tree = build_rootfs(base / "rootfs")
    archive = subprocess.run(["tar", "-C", str(tree), "-c", "."], capture_output=True, check=True).stdout
    options = ("--bip", "172.31.211.1/24", "--add-runtime", f"sampan={program}", "--default-runtime", "sampan")
    with running_dockerd(*options) as daemon:
        daemon.run("import", "-", "busybox", stdin=archive)
        yield daemon
        if left := daemon.out("ps", "-aq").split():
            daemon.run("rm", "-f", *left)


@pytest.fixture
def server(dockerd: Dockerd) -> Iterator[str]:
    """A container that serves a page on a published port, and ends with 5 when it is asked to."""
    name = dockerd.out("run", "-d", "-p", "8099:80", "busybox", "sh", "-c", SERVER)
    yield name
    dockerd.run("rm", "-f", name)


def test_it_is_the_runtime_that_runs(dockerd: Dockerd, server: str) -> None:
    assert dockerd.out("inspect", "--format", "{{.HostConfig.Runtime}}", server) == "sampan"
    assert f"/docker/{server}" in dockerd.out("exec", server, "cat", "/proc/self/cgroup")


def test_published_port(dockerd: Dockerd, server: str) -> None:
    """Docker gives the network namespace its link by a prestart hook."""
    retry = ("--retry", "20", "--retry-connrefused", "--retry-delay", "1")
    assert dockerd.inside("curl", "-s", *retry, "http://127.0.0.1:8099/") == "page\n"


def test_exec(dockerd: Dockerd, server: str) -> None:
    script = "id -u; echo $A; cat; exit 7"
    done = dockerd.run("exec", "-i", "-u", "1000:100", "-e", "A=b", server, "sh", "-c", script, check=7, stdin=b"in")
    assert done.stdout == b"1000\nb\nin"
    dockerd.run("exec", server, "no-such-program", check=126)  # dockerd 20.10 gives that for every exec that fails


def test_pause_top_stats_update(dockerd: Dockerd, server: str) -> None:
    dockerd.run("pause", server)
    assert dockerd.out("inspect", "--format", "{{.State.Status}}", server) == "paused"
    dockerd.run("unpause", server)
    assert "httpd -f -p 80" in dockerd.out("top", server)
    dockerd.run("update", "--memory", "50m", "--memory-swap", "60m", server)
    assert "/ 50MiB" in dockerd.out("stats", "--no-stream", "--format", "{{.MemUsage}}", server)


def test_stop_start_kill(dockerd: Dockerd, server: str) -> None:
    dockerd.run("stop", server)
    assert dockerd.out("inspect", "--format", "{{.State.ExitCode}}", server) == "5"
    dockerd.run("start", server)
    dockerd.run("kill", server)
    assert dockerd.out("wait", server) == "137"


def test_exit_statuses(dockerd: Dockerd) -> None:
    dockerd.run("run", "--rm", "busybox", "sh", "-c", "exit 42", check=42)
    assert (
        b"executable file not found in $PATH"
        in dockerd.run("run", "--rm", "busybox", "no-such-program", check=127).stderr
    )
    dockerd.run("run", "--rm", "busybox", "/etc", check=126)


def test_kill_for_want_of_memory_is_told(dockerd: Dockerd) -> None:
    limit = ("-m", "16m", "--memory-swap", "16m")
    name = dockerd.out("run", "-d", *limit, "busybox", "sh", "-c", "head -c 64m /dev/zero | tail; exit $?")
    assert dockerd.out("wait", name) != "0"
    assert dockerd.out("inspect", "--format", "{{.State.OOMKilled}}", name) == "true"
    dockerd.run("rm", name)


def test_terminal(dockerd: Dockerd) -> None:
    command = [*dockerd.client, "run", "--rm", "-it", "busybox", "sh", "-c", "tty; read line; echo got $line; exit 3"]
    with Terminal(command, dict(os.environ), ()) as terminal:
        terminal.expect(b"/dev/pts/0\r\n")
        terminal.type(b"word\r")
        terminal.expect(b"got word\r\n")
        assert terminal.end() == 3


def test_isolation_that_docker_asks_for(dockerd: Dockerd) -> None:
    script = "touch /x 2>/dev/null || echo read-only; touch /scratch/x; grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status; id -u"
    options = (
        "--read-only",
        "--tmpfs",
        "/scratch:mode=1777",
        "--cap-drop",
        "ALL",
        "--security-opt",
        "no-new-privileges",
        "-u",
        "1000",
    )
    told = dockerd.out("run", "--rm", *options, "busybox", "sh", "-c", script).split()
    assert told == ["read-only", "CapEff:", "0000000000000000", "NoNewPrivs:", "1", "Seccomp:", "2", "1000"]
