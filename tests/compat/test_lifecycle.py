"""Create, start, stop, kill, wait, rename, rm, ps, inspect, restart policies, events."""

from __future__ import annotations

import json
import time

import pytest

from compat.conftest import Client
from ground.daemon import Daemon
from ground.waiting import wait_until

TRAP = "trap 'echo stopping; exit 7' TERM USR1; echo ready; while :; do sleep 0.05; done"


def state(client: Client, name: str) -> dict[str, object]:
    return client.daemon.api("GET", f"/containers/{name}/json")["State"]


def started(client: Client, name: str, script: str = TRAP, *options: str) -> None:
    """Start a container and wait until it says `ready`."""
    client("run", "-d", "--name", name, *options, "busybox", "sh", "-c", script)
    with client.start("logs", "-f", name) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == b"ready\n"


def test_create_start_and_wait(client: Client) -> None:
    created = client.out("create", "--name", "cc", "busybox", "sh", "-c", "echo $0; exit 4")
    assert len(created) == 64
    assert state(client, "cc")["Status"] == "created"
    assert client.out("start", "cc") == "cc"
    assert client.out("wait", "cc") == "4"
    assert state(client, "cc")["Status"] == "exited"
    assert client.out("wait", "cc") == "4"
    done = client("start", "-a", "cc", check=4)
    assert done.stdout == b"sh\n"


def test_start_attached_with_input(client: Client) -> None:
    client("create", "-i", "--name", "cc", "busybox", "sh", "-c", "cat; exit 2")
    assert client("start", "-a", "-i", "cc", stdin=b"in", check=2).stdout == b"in"


def test_stop_asks_first(client: Client) -> None:
    started(client, "ss")
    assert client.out("stop", "ss") == "ss"
    assert (state(client, "ss")["ExitCode"], client.out("logs", "ss")) == (7, "ready\nstopping")


def test_stop_kills_who_does_not_listen(client: Client) -> None:
    client("run", "-d", "--name", "ss", "busybox", "sleep", "60")  # the first process has no handler for SIGTERM
    before = time.monotonic()
    client("stop", "-t", "1", "ss")
    assert 1.0 <= time.monotonic() - before < 9
    assert state(client, "ss")["ExitCode"] == 137


def test_stop_signal(client: Client) -> None:
    started(client, "ss", TRAP, "--stop-signal", "SIGUSR1")
    client("stop", "ss")
    assert state(client, "ss")["ExitCode"] == 7


@pytest.mark.parametrize(("signal", "code"), [("KILL", 137), ("SIGKILL", 137), ("9", 137), ("USR1", 7)])
def test_kill(client: Client, signal: str, code: int) -> None:
    started(client, "kk")
    client("kill", "-s", signal, "kk")
    assert client.out("wait", "kk") == str(code)
    assert b"is not running" in client("kill", "kk", check=1).stderr


def test_an_unknown_signal(client: Client) -> None:
    started(client, "kk")
    assert b"invalid signal: NONSENSE" in client("kill", "-s", "NONSENSE", "kk", check=1).stderr.replace(b"Invalid", b"invalid")
    assert state(client, "kk")["Running"] is True


def test_restart(client: Client) -> None:
    started(client, "rr")
    first = state(client, "rr")
    client("restart", "-t", "5", "rr")
    second = state(client, "rr")
    assert second["Running"] is True
    assert second["Pid"] != first["Pid"]
    assert str(second["StartedAt"]) > str(first["StartedAt"])
    client("rm", "-f", "rr")


def test_restart_of_one_that_removes_itself_at_its_end(client: Client) -> None:
    client("run", "-d", "--rm", "--name", "rr", "busybox", "sleep", "100")
    first = state(client, "rr")
    client("restart", "-t", "0", "rr")
    second = state(client, "rr")
    assert second["Running"] is True
    assert second["Pid"] != first["Pid"]
    client("stop", "-t", "0", "rr")
    wait_until(lambda: client.out("ps", "-aq") == "", "it has removed itself")


def test_pause(client: Client) -> None:
    container = client.out("run", "-d", "--name", "pp", "busybox", "sh", "-c", "while :; do date +%s%N > /now; done")
    client("pause", "pp")
    assert "(Paused)" in client.out("ps", "--filter", f"id={container}")
    assert state(client, "pp")["Status"] == "paused"
    assert b"already paused" in client("pause", "pp", check=1).stderr
    client("unpause", "pp")
    assert b"is not paused" in client("unpause", "pp", check=1).stderr
    client("pause", "pp")
    client("rm", "-f", "pp")


def test_rename_and_names(client: Client) -> None:
    first = client.out("create", "--name", "one", "busybox", "true")
    refused = client("create", "--name", "one", "busybox", "true", check=1 if client.name == "docker" else None)
    assert f'The container name "/one" is already in use by container "{first}"'.encode() in refused.stderr
    assert refused.returncode != 0
    client("rename", "one", "two")
    assert client.out("inspect", "-f", "{{.Name}}", first[:6]) == "/two"
    client("create", "--name", "one", "busybox", "true")
    assert b"already in use" in client("rename", "one", "two", check=1).stderr
    assert b"Invalid container name" in client("rename", "one", "!", check=1).stderr


def test_remove(client: Client) -> None:
    client("run", "-d", "--name", "rr", "busybox", "sleep", "60")
    refused = client("rm", "rr", check=1)
    assert b"container is running: stop the container before removing or force remove" in refused.stderr
    client("rm", "-f", "rr")
    assert b"No such container: rr" in client("rm", "rr", check=1).stderr
    client("rm", "-f", "rr", check=None)
    assert client.out("ps", "-aq") == ""


def test_rm_with_detach(client: Client) -> None:
    client("run", "-d", "--rm", "--name", "rr", "busybox", "true")
    wait_until(lambda: client.out("ps", "-aq") == "", "it has gone")


def test_ps(client: Client) -> None:
    client("run", "--name", "old", "-l", "kind=a", "busybox", "sh", "-c", "exit 3", check=3)
    running = client.out("run", "-d", "--name", "new", "-l", "kind=b", "busybox", "sleep", "60")
    head, line = client.out("ps").splitlines()
    assert head.split() == ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    assert line.split()[:2] == [running[:12], "busybox"]
    assert '"sleep 60"' in line
    assert " Up " in line
    assert line.endswith(" new")
    names = ("--format", "{{.Names}}")
    assert client.out("ps", "-a", *names).split() == ["new", "old"]
    assert client.out("ps", "-l", *names) == "new"
    assert client.out("ps", "-n", "1", *names) == "new"
    assert client.out("ps", "-q", "--no-trunc") == running
    for filter_, expected in (
        ("status=exited", "old"), ("exited=3", "old"), ("exited=4", ""), ("name=ne", "new"), ("label=kind=a", "old"),
        ("label=kind", "new old"), ("ancestor=busybox", "new old"), ("before=new", "old"), ("since=old", "new"),
        ("network=bridge", "new old"), ("network=host", ""), (f"id={running[:8]}", "new"), ("volume=x", ""),
    ):  # fmt: skip
        assert client.out("ps", "-a", "--filter", filter_, *names).split() == expected.split(), filter_
    assert b"invalid filter" in client("ps", "--filter", "nonsense=1", check=1).stderr
    assert "Exited (3)" in client.out("ps", "-a", "--filter", "name=old")


def test_inspect(client: Client) -> None:
    options = ("-e", "A=1", "-w", "/tmp", "-m", "32m", "-p", "8090:80", "-v", "/tmp:/t:ro")
    container = client.out("run", "-d", *options, "busybox", "sleep", "60")
    (told,) = json.loads(client.out("inspect", container))
    assert told["Id"] == container
    assert (told["Path"], told["Args"]) == ("sleep", ["60"])
    assert told["State"]["Running"] is True
    assert told["Config"]["Env"][0] == "A=1"
    assert told["Config"]["WorkingDir"] == "/tmp"
    assert told["HostConfig"]["Memory"] == 32 << 20
    assert told["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"] == "8090"
    assert told["Mounts"][0] | {"Mode": "ro", "RW": False} == told["Mounts"][0]
    assert told["Mounts"][0]["Source"] == "/tmp"
    (image,) = json.loads(client.out("inspect", "busybox"))
    assert image["Id"] == told["Image"]
    missing = client("inspect", "nothing-of-this-name", check=1)
    assert b"nothing-of-this-name" in missing.stderr


def test_on_failure_restarts_as_often_as_said(client: Client) -> None:
    client("run", "-d", "--name", "ff", "--restart", "on-failure:2", "busybox", "sh", "-c", "echo run; exit 5")
    wait_until(lambda: state(client, "ff")["Status"] == "exited", "it has given up")
    assert client.out("logs", "ff").split() == ["run"] * 3
    assert client.out("inspect", "-f", "{{.RestartCount}} {{.State.ExitCode}}", "ff") == "2 5"
    client("start", "ff")
    wait_until(lambda: client.out("logs", "ff").split() == ["run"] * 6, "a start by hand counts anew")


def test_always_restarts_until_it_is_stopped(client: Client) -> None:
    client("run", "-d", "--name", "ff", "--restart", "always", "busybox", "sh", "-c", "echo run")
    wait_until(lambda: client.out("logs", "ff").split().count("run") >= 3, "it ran three times")
    client("stop", "ff", check=None)
    wait_until(lambda: state(client, "ff")["Status"] == "exited", "it is stopped")
    count = client.out("inspect", "-f", "{{.RestartCount}}", "ff")
    assert int(count) >= 2


def test_rm_and_a_restart_policy_contradict_each_other(client: Client) -> None:
    refused = client("run", "--rm", "--restart", "always", "busybox", "true", check=125)
    assert b"--restart and --rm" in refused.stderr


def test_events(client: Client) -> None:
    since = f"{time.time():.6f}"
    client("run", "--rm", "--name", "ee", "busybox", "sh", "-c", "exit 3", check=3)
    span = ("--since", since, "--until", f"{time.time() + 0.01:.6f}")
    lines = client.out("events", *span, "--format", "{{.Type}} {{.Action}}").splitlines()
    assert [line for line in lines if line.startswith("container")] == [
        "container create", "container attach", "container start", "container die", "container destroy",
    ]  # fmt: skip
    told = client.out("events", *span, "--filter", "event=die", "--format", "{{json .Actor.Attributes}}")
    attributes = json.loads(told)
    assert (attributes["exitCode"], attributes["name"], attributes["image"]) == ("3", "ee", "busybox")


def test_top(client: Client) -> None:
    client("run", "-d", "--name", "tt", "busybox", "sh", "-c", "sleep 61 & sleep 62")

    def shown() -> set[str]:
        return {" ".join(line.split()[7:]) for line in client.out("top", "tt").splitlines()}

    wait_until(lambda: {"sleep 61", "sleep 62"} <= shown(), "both are shown")


def test_ps_size_is_what_the_container_has_written(daemon: Daemon) -> None:
    daemon.docker("run", "--name", "writer", "busybox", "sh", "-c", "head -c 3000000 /dev/urandom > /big")
    (line,) = daemon.api("GET", "/containers/json?all=1&size=1")
    assert 3_000_000 <= line["SizeRw"] < 3_200_000
    assert line["SizeRootFs"] > line["SizeRw"]
    assert daemon.api("GET", "/containers/writer/json?size=1")["SizeRw"] == line["SizeRw"]
    assert "SizeRw" not in daemon.api("GET", "/containers/json?all=1")[0]
    assert b"3." in daemon.docker("ps", "-as", "--format", "{{.Size}}").stdout
