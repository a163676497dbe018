"""`docker checkpoint`: a container goes on from one where criu works; elsewhere the reason is told, and nothing is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compat.conftest import Client
from ground.daemon import Daemon
from ground.waiting import wait_until
from sampan_runtime_oci import criu

COUNT = "i=0; while :; do echo $((i=i+1)); sleep 0.1; done"


def counted(client: Client) -> int:
    lines = client.out("logs", "counter").split()
    return int(lines[-1]) if lines else 0


def test_the_native_runtime_has_none(client: Client) -> None:
    client("run", "-d", "--name", "plain", "busybox", "sleep", "60")
    refused = client("checkpoint", "create", "plain", "first", check=1)
    assert b"checkpoint container plain: runtime 'native' has no checkpoints: make it with one that has" in refused.stderr
    assert client.out("checkpoint", "ls", "plain").splitlines() == ["CHECKPOINT NAME"]


def test_a_container_goes_on_or_the_reason_is_told(client: Client, daemon: Daemon) -> None:
    client("run", "-d", "--name", "counter", "--runtime", "runc", "busybox", "sh", "-c", COUNT)
    wait_until(lambda: counted(client) > 3, "it counts")
    if reason := criu.obstacle():
        refused = client("checkpoint", "create", "counter", "first", check=1)
        assert f"checkpoint container counter: {reason}" in refused.stderr.decode()
        status, answer = daemon.api_raw("POST", "/containers/counter/checkpoints", {"CheckpointID": "first"})
        assert (status, reason in json.loads(answer)["message"]) == (501, True)
        assert client.out("checkpoint", "ls", "counter").splitlines() == ["CHECKPOINT NAME"]
        assert client.out("inspect", "-f", "{{.State.Running}}", "counter") == "true"
        return
    client("checkpoint", "create", "counter", "first")
    client("wait", "counter")
    assert client.out("checkpoint", "ls", "counter").splitlines()[1:] == ["first"]
    reached = counted(client)
    client("start", "--checkpoint", "first", "counter")
    wait_until(lambda: counted(client) > reached, "it counts on")
    assert client.out("logs", "counter").split().count("1") == 1
    client("checkpoint", "rm", "counter", "first")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "absent", "first"), "No such container: absent"),
        (("create", "still", "first"), "is not running"),
        (("create", "still", "../out"), "invalid checkpoint ID"),
        (("create", "--checkpoint-dir", "relative", "still", "first"), "it must be an absolute path"),
        (("ls", "--checkpoint-dir", "/no/such/place", "still"), 'checkpoint directory "/no/such/place" does not exist'),
        (("rm", "still", "first"), "checkpoint first does not exist for container still"),
    ],
)
def test_what_cannot_be(client: Client, arguments: tuple[str, ...], words: str) -> None:
    client("create", "--name", "still", "busybox", "true")
    assert words in client("checkpoint", *arguments, check=1).stderr.decode()


def test_a_start_from_what_is_no_checkpoint_leaves_nothing(client: Client, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "descriptors.json").write_text("[]")
    client("create", "--name", "still", "--runtime", "runc", "busybox", "sleep", "60")
    where = ("--checkpoint-dir", str(tmp_path), "--checkpoint", "first")
    assert b"OCI runtime restore failed: " in client("start", *where, "still", check=1).stderr
    assert client.out("inspect", "-f", "{{.State.Running}}", "still") == "false"
    client("start", "still")
    native = client.out("create", "busybox", "sleep", "60")
    refused = client("start", *where, native, check=1)
    assert b"restore a container: runtime 'native' has no checkpoints" in refused.stderr


def test_a_start_from_no_checkpoint(client: Client) -> None:
    client("create", "--name", "still", "busybox", "true")
    refused = client("start", "--checkpoint", "first", "still", check=1)
    assert b"checkpoint first does not exist for container still" in refused.stderr
    assert client.out("inspect", "-f", "{{.State.Status}}", "still") == "created"
