"""Pausing, what a paused container still takes, and `top`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from compat.conftest import Client
from ground.daemon import Daemon
from ground.waiting import wait_until
from sampan.api.errors import InvalidArgument
from sampan.engine.top import choose

TRAP = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"


def pause(client: Client, *options: str) -> str:
    container = client.out("run", "-d", *options, "busybox", "sh", "-c", TRAP)
    wait_until(lambda: client.out("logs", container) == "ready", "it listens to SIGTERM")
    client("pause", container)
    return container


@pytest.fixture
def paused(client: Client) -> str:
    return pause(client)


def status(client: Client, container: str) -> str:
    return client.out("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", container)


def test_a_paused_container_is_told_apart(client: Client, paused: str) -> None:
    assert client.out("ps", "--format", "{{.Status}}").endswith("(Paused)")
    assert b"is already paused" in client("pause", paused, check=1).stderr
    refused = client("exec", paused, "true", check=1)
    assert b"is paused, unpause the container before exec" in refused.stderr
    assert "sh -c trap" in client.out("top", paused)
    client("unpause", paused)
    client("exec", paused, "true")
    assert b"is not paused" in client("unpause", paused, check=1).stderr


def test_a_paused_container_stops_as_it_likes(client: Client, paused: str) -> None:
    client("stop", "-t", "20", paused)
    assert status(client, paused) == "exited 7"


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_a_program_thaws_what_it_stops(docker: Client, runtime: str) -> None:
    container = pause(docker, "--runtime", runtime)
    docker("stop", "-t", "20", container)
    assert status(docker, container) == "exited 7"


def test_a_paused_container_is_killed(client: Client, paused: str) -> None:
    client("kill", paused)
    assert status(client, paused) == "exited 137"


def test_a_signal_that_ends_nothing_leaves_it_paused(client: Client, paused: str) -> None:
    client("kill", "-s", "WINCH", paused)
    assert status(client, paused) == "paused 0"


def test_a_paused_container_is_removed_by_force_alone(client: Client, paused: str) -> None:
    assert b"container is paused and must be unpaused first" in client("rm", paused, check=1).stderr
    client("rm", "-f", paused)
    assert client.out("ps", "-aq") == ""


def test_a_paused_container_starts_anew(client: Client, paused: str) -> None:
    client("restart", "-t", "0", paused)
    assert status(client, paused) == "running 0"


# ---------------------------------------------------------------------- top


def table(daemon: Daemon, container: str, options: str = "") -> dict[str, Any]:
    answer: dict[str, Any] = daemon.api("GET", f"/containers/{container}/top?ps_args={options.replace(' ', '%20')}")
    return answer


@pytest.mark.parametrize("options", ["", "aux", "-o pid,cmd", "-eo pid,ppid,args", "axf -o pid,args"])
def test_top_has_the_containers_processes_and_no_others(docker: Client, daemon: Daemon, options: str) -> None:
    container = docker.out("run", "-d", "busybox", "sh", "-c", "sleep 71 & exec sleep 72")
    docker.out("run", "-d", "busybox", "sleep", "73")
    found = table(daemon, container, options)
    assert sorted(row[-1].rpartition("sleep ")[2] for row in found["Processes"]) == ["71", "72"]
    pid = docker.out("inspect", "-f", "{{.State.Pid}}", container)
    column = found["Titles"].index("PID")
    assert pid in [row[column] for row in found["Processes"]]


def test_top_on_the_command_line(client: Client) -> None:
    container = client.out("run", "-d", "busybox", "sleep", "74")
    assert client.out("top", container, "-o", "pid,cmd").splitlines()[1].split()[1:] == ["sleep", "74"]
    assert client.out("top", container).splitlines()[0].split()[:3] == ["UID", "PID", "PPID"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-o", "cmd"), "Couldn't find PID field in ps output"),
        (("-o", "ppid=PID"), 'specifying "ppid=PID" is not allowed'),
        (("--nonsense",), "unknown gnu long option"),
    ],
)
def test_what_top_cannot_show(client: Client, options: tuple[str, ...], words: str) -> None:
    container = client.out("run", "-d", "busybox", "sleep", "60")
    assert words in client("top", container, *options, check=1).stderr.decode()


def test_top_of_what_does_not_run(client: Client) -> None:
    container = client.out("create", "busybox", "true")
    assert f"{container} is not running" in client("top", container, check=1).stderr.decode()


def test_threads_follow_their_process() -> None:
    lines = ["  PID   LWP CMD", "    7     - one", "    -     7 -", "    -     8 -", "    9     - two", "    -     9 -"]
    assert [row[1] for row in choose(lines, {7}).rows] == ["-", "7", "8"]
    with pytest.raises(InvalidArgument):
        choose(["CMD", "one"], {7})


def test_top_is_an_event(docker: Client, daemon: Daemon) -> None:
    container = docker.out("run", "-d", "busybox", "sleep", "60")
    table(daemon, container)
    options = ("--since", "1", "--filter", "event=top", "--filter", f"container={container}", "--format", "json")
    with docker.start("events", *options) as events:
        assert events.stdout is not None and json.loads(events.stdout.readline())["id"] == container
