"""docker diff: what dockerd 20.10 with overlay2 answered to the same, in the order of a walk."""

from __future__ import annotations

import json

import pytest

from compat.conftest import Client
from ground.daemon import Daemon

CASES = {
    "true": "",
    "echo hi > /etc/new; echo x > /top": "C /etc, A /etc/new, A /top",
    "echo hi >> /etc/passwd": "C /etc, C /etc/passwd",
    "rm /etc/group": "C /etc, D /etc/group",
    "mkdir -p /a/b/c; touch /a/b/c/d /usr/z": "A /a, A /a/b, A /a/b/c, A /a/b/c/d, C /usr, A /usr/z",
    "ln /etc/passwd /etc/passwd2; ln /etc/group /usr/g2": "C /etc, A /etc/passwd2, C /usr, A /usr/g2",
    "rm -r /var; mkdir /var; touch /var/x": "C /var, D /var/tmp, A /var/x",
    "rm -r /home": "D /home",
    "rm /etc/passwd; mkdir /etc/passwd; touch /etc/passwd/u": "C /etc, C /etc/passwd, A /etc/passwd/u",
    "chmod 700 / /usr": "C /usr",
    "chmod 700 /etc": "C /etc",
    "touch /run/a /tmp/b /dev/q": "C /run, A /run/a, C /tmp, A /tmp/b",
    "echo more >> /etc/hosts; echo x > /etc/hostname": "",
    "mkdir /b /b.d /b/x /B; touch /b.d/y /b/x/z": "A /B, A /b, A /b/x, A /b/x/z, A /b.d, A /b.d/y",
}

OPTIONS = {
    ("-v", "/data/y"): "A /data, A /data/y",
    ("-v", "/etc/hostname:/opt/some/file"): "A /opt, A /opt/some, A /opt/some/file",
    ("-v", "/etc/hostname:/etc/some"): "C /etc, A /etc/some",
    ("--tmpfs", "/tt/uu"): "A /tt, A /tt/uu",
    ("-w", "/work/dir"): "A /work, A /work/dir",
}


def diff(client: Client, name: str) -> str:
    return ", ".join(client.out("diff", name).splitlines())


def test_what_a_command_changes(docker: Client) -> None:
    for number, (command, told) in enumerate(CASES.items()):
        docker("run", "--name", f"d{number}", "busybox", "sh", "-c", command)
        assert diff(docker, f"d{number}") == told, command


def test_where_something_was_mounted(docker: Client) -> None:
    for number, (options, told) in enumerate(OPTIONS.items()):
        docker("run", "--name", f"d{number}", *options, "busybox", "true")
        assert diff(docker, f"d{number}") == told, options


@pytest.mark.parametrize("driver", ["overlayfs", "vfs"])
def test_running_and_stopped(client: Client, driver: str) -> None:
    script = "touch /tmp/a; echo x > /etc/b; echo ready; read line; rm /tmp/a"
    client("create", "-i", "--name", "dd", "--storage-opt", f"driver={driver}", "busybox", "sh", "-c", script)
    assert diff(client, "dd") == ""
    with client.start("start", "-a", "-i", "dd") as running:
        assert running.stdout is not None
        assert running.stdin is not None
        assert running.stdout.readline() == b"ready\n"
        assert diff(client, "dd") == "C /etc, A /etc/b, C /tmp, A /tmp/a"
        running.stdin.write(b"go\n")
        running.stdin.close()
        assert running.wait(20) == 0
    assert diff(client, "dd") == "C /etc, A /etc/b, C /tmp"


def test_one_that_is_not_there(client: Client) -> None:
    assert b"No such container: nono" in client("diff", "nono", check=1).stderr


def test_the_answer(daemon: Daemon) -> None:
    """Docker's shape; names that are no text, and a tree deeper than any path."""
    daemon.docker("create", "--name", "none", "busybox", "true")
    assert daemon.api_raw("GET", "/containers/none/changes") == (200, b"null\n")
    deep = "i=0; while [ $i -lt 1500 ]; do mkdir ddd && cd ddd; i=$((i+1)); done"
    daemon.docker("run", "--name", "some", "busybox", "sh", "-c", rf"printf x > $(printf '/\377\n\303\251z'); mkdir /t; cd /t; {deep}")
    status, body = daemon.api_raw("GET", "/containers/some/changes")
    answer = json.loads(body)
    assert status == 200
    assert answer[0] == {"Path": "/t", "Kind": 1}
    assert answer[-1] == {"Path": "/\ufffd\néz", "Kind": 1}
    assert [len(change["Path"]) for change in answer[:-1]] == [2 + 4 * depth for depth in range(1024)]
