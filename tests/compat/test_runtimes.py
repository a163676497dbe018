"""Runtimes beside the native one: by name from the settings, and gVisor with what it can and what it can't."""

from __future__ import annotations

import os
import select
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat.conftest import Client
from ground.daemon import Daemon, docker_client, new_daemon
from ground.leaks import check_nothing_left
from ground.waiting import wait_until

SETTINGS = """
[runtimes.mine]
driver = "oci"
binary = "{runc}"

[runtimes.loud]
driver = "runc"
extra_args = ["--debug"]

[runtimes.broken]
driver = "nosuch"

[runtimes.gone]
driver = "oci"
binary = "/no/such/program"
"""


@pytest.fixture(scope="module")
def settled() -> Iterator[Daemon]:
    with new_daemon() as daemon:
        config = daemon.base / "config.toml"
        config.write_text(SETTINGS.format(runc=shutil.which("runc")))
        daemon.arguments += ["--config", str(config)]
        daemon.start()
        daemon.api("POST", "/sampan/images/bootstrap")
        yield daemon
        daemon.stop()


@pytest.fixture
def docker(settled: Daemon) -> Iterator[Client]:
    """The stock client of an engine with settings for runtimes; afterwards its containers are removed, and nothing is left."""
    yield Client("docker", (docker_client(),), settled)
    for container in settled.api("GET", "/containers/json?all=1"):
        settled.api("DELETE", f"/containers/{container['Id']}?force=1&v=1")
    check_nothing_left(settled)


@pytest.mark.parametrize("name", ["mine", "loud"])
def test_a_table_makes_a_runtime(docker: Client, name: str) -> None:
    assert docker.out("run", "--rm", "--runtime", name, "busybox", "echo", "hello") == "hello"
    assert docker.out("info", "-f", f'{{{{index .Runtimes "{name}"}}}}')
    container = docker.out("create", "--runtime", name, "busybox", "true")
    assert docker.out("inspect", "-f", "{{.HostConfig.Runtime}}", container) == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken", "settings [runtimes.broken]: unknown runtime driver 'nosuch'"),
        ("nowhere", "unknown runtime driver 'nowhere': known ones are"),
        ("gone", "run /no/such/program: No such file or directory: install it, or set its path as `binary`"),
        ("oci", "run oci: No such file or directory: install it, or set its path as `binary`"),
    ],
)
def test_what_is_no_runtime_is_told(docker: Client, name: str, words: str) -> None:
    assert words in docker("run", "--rm", "--runtime", name, "busybox", "true", check=125).stderr.decode()


@pytest.mark.parametrize("runtime", ["native", "runc", "crun"])
@pytest.mark.parametrize(("command", "code"), [("absent", 127), ("/etc", 126), ("/etc/passwd", 126)])
def test_what_cannot_run_is_told_once_by_each(docker: Client, runtime: str, command: str, code: int) -> None:
    refused = docker("run", "--rm", "--runtime", runtime, "busybox", command, check=code).stderr.decode()
    (told,) = [line for line in refused.splitlines() if "Error response from daemon" in line]
    assert (told.count("OCI runtime"), command in told) == (1, True)


# ---------------------------------------------------------------------- gVisor

GVISOR = ("--runtime", "runsc", "--network", "none")


@pytest.mark.parametrize("runtime", ["native", "runc", "crun"])
def test_a_limit_that_the_daemon_may_not_give_is_cut_for_each(docker: Client, runtime: str) -> None:
    """Where the daemon has the right the limit is as asked for, and nothing is told."""
    asked = ("--ulimit", f"nofile={1 << 19}:{1 << 19}", "--oom-score-adj", "-5")
    done = docker("run", "--rm", "--runtime", runtime, *asked, "busybox", "sh", "-c", "ulimit -Hn; cat /proc/self/oom_score_adj")
    limit, score = done.stdout.decode().split()
    told = done.stderr.decode()
    assert ("nofile" in told, "OomScoreAdj" in told) == (limit != str(1 << 19), score != "-5")


def test_gvisor_runs_a_container_under_a_kernel_of_its_own(docker: Client) -> None:
    done = docker("run", "--rm", *GVISOR, "busybox", "sh", "-c", "uname -r; ip -o link; exit 3", check=3)
    release, *links = done.stdout.decode().splitlines()
    assert release != os.uname().release
    assert [link.split()[1] for link in links] == ["lo:"]


def test_gvisor_has_the_hosts_network_where_that_is_asked_for(docker: Client, settled: Daemon) -> None:
    shown = docker.out("run", "--rm", "--runtime", "runsc", "--network", "host", "busybox", "ip", "-o", "link")
    assert f"sp{settled.mark}" in shown


@pytest.mark.parametrize("options", [(), ("--network", "bridge"), ("-p", "80")])
def test_gvisor_is_refused_a_network_of_the_engines(docker: Client, options: tuple[str, ...]) -> None:
    done = docker("run", "--rm", "--runtime", "runsc", *options, "busybox", "true", check=125)
    assert b"use --network none or --network host, or another --runtime" in done.stderr
    assert docker.out("ps", "-aq") == ""


def test_gvisor_does_the_rest(docker: Client) -> None:
    container = docker.out("run", "-d", *GVISOR, "-m", "256m", "busybox", "sleep", "60")
    docker("exec", container, "sh", "-c", "exit 7", check=7)
    assert docker.out("exec", container, "cat", "/proc/1/cmdline").startswith("sleep")
    assert docker.out("stats", "--no-stream", "--format", "{{.MemUsage}}", container).endswith("/ 256MiB")
    assert len(docker.out("top", container).splitlines()) > 1
    docker("pause", container)
    docker("unpause", container)
    refused = docker("update", "-m", "512m", "--memory-swap", "1g", container, check=1)
    assert b"runsc can't change limits of one that runs" in refused.stderr
    docker("stop", "-t", "1", container)
    assert docker.out("inspect", "-f", "{{.State.ExitCode}}", container) in ("137", "143")


def test_a_program_that_gvisor_does_not_find(docker: Client) -> None:
    done = docker("run", "--name", "lost", *GVISOR, "busybox", "nosuch", check=127)
    assert b'"nosuch"' in done.stderr
    assert docker.out("inspect", "-f", "{{.State.ExitCode}}", "lost") == "127"


def test_gvisors_sandbox_goes_with_its_shim(docker: Client) -> None:
    container = docker.out("run", "-d", *GVISOR, "busybox", "sleep", "60")
    sandbox = int(docker.out("inspect", "-f", "{{.State.Pid}}", container))
    shim = int(Path(f"/proc/{sandbox}/stat").read_text().rpartition(")")[2].split()[1])
    pidfd = os.pidfd_open(sandbox)
    os.kill(shim, signal.SIGKILL)
    wait_until(
        lambda: docker.out("inspect", "-f", "{{.State.Status}}", container) == "exited", "the container has ended"
    )
    with os.fdopen(pidfd) as ended:
        assert select.select([ended], [], [], 10)[0], "the sandbox goes on"
