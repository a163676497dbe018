"""What cannot be done: Docker's words, exit status 125, and nothing left behind (the fixture looks)."""

from __future__ import annotations

import pytest

from compat.conftest import Client


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--storage-opt", "driver=nosuch"], "nosuch"),
        (["--runtime", "nosuch"], "nosuch"),
        (["--log-driver", "nosuch"], "nosuch"),
        (["--storage-opt", "nonsense=1"], "nonsense"),
        (["-m", "1m"], "Minimum memory limit allowed is 6MB"),
        (["--cpus", "1000"], "Range of CPUs is from 0.01 to"),
        (["--cpuset-cpus", "999"], "Requested CPUs are not available"),
        (["-w", "relative"], "the working directory 'relative' is invalid, it needs to be an absolute path"),
        (["-v", "rel/ative:/x"], "includes invalid characters for a local volume name"),
        (["-v", "/tmp:/"], "destination can't be '/'"),
        (["-v", "/a:/x", "-v", "/b:/x"], "Duplicate mount point: /x"),
        (["--cap-add", "NONSENSE"], 'unknown capability: "CAP_NONSENSE"'),
        (["--cap-drop", "NONSENSE"], 'invalid CapDrop: unknown capability: "CAP_NONSENSE"'),
        (["--security-opt", "nonsense=1"], "invalid --security-opt 2"),
        (["--stop-signal", "NONSENSE"], "nvalid signal: NONSENSE"),
        (["--name", "-x-"], "Invalid container name"),
        (["--ipc", "nonsense"], "invalid IPC mode: nonsense"),
        (["--pid", "container:absent"], "No such container: absent"),
        (["-u", "nobody-here"], "unable to find user nobody-here: no matching entries in passwd file"),
        (["-u", "4294967296"], "uids and gids must be in range 0-2147483647"),
        (["--group-add", "nobody-here"], "nable to find group nobody-here"),
        (["--volumes-from", "absent"], "No such container: absent"),
        (["--tmpfs", "/t:nonsense"], "nonsense"),
        (["--sysctl", "kernel.nonsense=1"], "kernel.nonsense"),
        (["--device-cgroup-rule", "z 1:1 r"], "nvalid device cgroup"),
        (["--ulimit", "nonsense=1"], "nonsense"),
    ],
)
def test_run_refuses(client: Client, options: list[str], message: str) -> None:
    done = client("run", "--rm", *options, "busybox", "true", check=125)
    assert message in done.stderr.decode()
    assert client.out("ps", "-aq") == ""


def test_an_unknown_restart_policy(client: Client) -> None:
    done = client("run", "--restart", "sometimes", "busybox", "true", check=125)
    assert b"invalid restart policy" in done.stderr
    assert b"'sometimes'" in done.stderr


def test_an_unknown_image(client: Client) -> None:
    done = client("run", "--rm", "--pull", "never", "absent:1", "true", check=125)
    assert b"No such image: absent:1" in done.stderr
    assert b"No such image: absent:1" in client("rmi", "absent:1", check=1).stderr


def test_a_flag_that_nobody_knows(client: Client) -> None:
    done = client("run", "--nonsense", "busybox", "true", check=125)
    assert b"--nonsense" in done.stderr


def test_a_start_that_failed_can_be_looked_at_and_removed(client: Client) -> None:
    client("run", "--name", "bad", "busybox", "absent-program", check=127)
    assert client.out("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "bad") == "created 127"
    assert "absent-program" in client.out("inspect", "-f", "{{.State.Error}}", "bad")
    client("rm", "bad")


def test_a_detached_run_that_fails(client: Client) -> None:
    done = client("run", "-d", "--rm", "busybox", "absent-program", check=127)
    assert b"absent-program" in done.stderr
    assert client.out("ps", "-aq") == ""


def test_a_daemon_that_is_not_there(client: Client) -> None:
    done = client("-H", "unix:///nowhere/s.sock", "ps", check=1)
    assert b"/nowhere/s.sock" in done.stderr
