"""`exec`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import pytest

from compat.conftest import Client


@pytest.fixture
def container(client: Client) -> Iterator[str]:
    yield client.out("run", "-d", "-e", "OF=container", "-w", "/tmp", "busybox", "sleep", "600")
    client("rm", "-f", client.out("ps", "-q"))


def test_streams_environment_and_directory(client: Client, container: str) -> None:
    script = "echo $OF $MORE $PWD; echo err >&2"
    done = client("exec", "-e", "MORE=exec", container, "sh", "-c", script)
    assert (done.stdout, done.stderr) == (b"container exec /tmp\n", b"err\n")
    assert client.out("exec", "-w", "/etc", "-u", "1:1", container, "sh", "-c", "pwd; id -u; id -g") == "/etc\n1\n1"


def test_a_megabyte_through_stdin_unchanged(client: Client, container: str) -> None:
    data = os.urandom(1 << 20)
    digest = hashlib.sha256(data).hexdigest()
    assert client.out("exec", "-i", container, "sha256sum", stdin=data).split()[0] == digest
    assert client("exec", "-i", container, "cat", stdin=data).stdout == data


def test_output_after_the_end_of_input(client: Client, container: str) -> None:
    assert client("exec", "-i", container, "sh", "-c", "cat; echo after", stdin=b"in\n").stdout == b"in\nafter\n"


def test_much_output_arrives_whole(client: Client, container: str) -> None:
    done = client("exec", container, "sh", "-c", "head -c 10000000 /dev/zero")
    assert done.stdout == bytes(10_000_000)


@pytest.mark.parametrize(
    ("command", "code"),
    [(["true"], 0), (["sh", "-c", "exit 3"], 3), (["sh", "-c", "kill -9 $$"], 137), (["/etc/passwd"], 126), (["absent"], 127)],
)
def test_exit_codes(client: Client, container: str, command: list[str], code: int) -> None:
    client("exec", container, *command, check=code)


def test_a_detached_exec_goes_on(client: Client, container: str) -> None:
    done = client("exec", "-d", container, "sh", "-c", "mkfifo /tmp/pipe; echo went > /tmp/pipe")
    assert done.stdout == b""
    assert client.out("exec", container, "sh", "-c", "while [ ! -p /tmp/pipe ]; do usleep 10000; done; cat /tmp/pipe") == "went"


def test_it_is_in_the_containers_namespaces_and_limits(client: Client, container: str) -> None:
    script = "for n in pid net mnt uts ipc; do readlink /proc/1/ns/$n; readlink /proc/self/ns/$n; done"
    links = client.out("exec", container, "sh", "-c", script).splitlines()
    assert links[0::2] == links[1::2]
    one, own = (
        client.out("exec", container, "sh", "-c", f"grep -E 'Cap(Bnd|Eff)|Seccomp:' /proc/{pid}/status") for pid in ("1", "self")
    )
    assert one == own
    assert client.out("exec", container, "sh", "-c", "cat /proc/self/cgroup") == client.out(
        "exec", container, "cat", "/proc/1/cgroup"
    )


def test_no_descriptor_leaks_in(client: Client, container: str) -> None:
    assert client.out("exec", container, "sh", "-c", "ls /proc/$$/fd; true").split() == ["0", "1", "2"]
    assert client.out("exec", "-i", container, "sh", "-c", "ls /proc/$$/fd; true", stdin=b"").split() == ["0", "1", "2"]


def test_refusals(client: Client, container: str) -> None:
    missing = client("exec", "nothing", "true", check=1)
    assert b"No such container: nothing" in missing.stderr
    client("pause", container)
    assert b"is paused" in client("exec", container, "true", check=1).stderr
    client("unpause", container)
    client("stop", "-t", "0", container)
    assert b"is not running" in client("exec", container, "true", check=1).stderr
    client("start", container)


@pytest.mark.parametrize("user", ["nobody-of-that-name", "0:no-group-of-that-name"])
def test_what_came_to_nothing_is_no_longer_there(client: Client, container: str, user: str) -> None:
    before = client.out("inspect", "-f", "{{.ExecIDs}}", container)
    client("exec", "-u", user, container, "true", check=126)
    assert client.out("inspect", "-f", "{{.ExecIDs}}", container) == before
