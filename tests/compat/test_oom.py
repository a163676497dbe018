"""Memory that runs out in a container: told while it lives, and once."""

from __future__ import annotations

import time

from compat.conftest import Client
from ground.daemon import Daemon

HUNGRY = "while read line; do tail -c 100m /dev/zero; echo $?; done"
"""Each line of input has a child eat more than the limit; the shell itself goes on."""


def test_it_is_told_while_the_container_lives(client: Client, daemon: Daemon) -> None:
    name = f"hungry-{client.name}"
    oom_events = ("events", "--since", "1", "--filter", f"container={name}", "--filter", "event=oom")
    client("create", "--name", name, "--interactive", "--memory", "20m", "busybox", "sh", "-c", HUNGRY)
    with (
        client.start(*oom_events) as events,
        client.start("start", "--attach", "--interactive", name) as running,
    ):
        assert events.stdout is not None and running.stdin is not None and running.stdout is not None
        for _ in range(2):
            running.stdin.write(b"\n")
            running.stdin.flush()
            assert running.stdout.readline() == b"137\n"
            assert b"container oom" in events.stdout.readline()
        state = daemon.api("GET", f"/containers/{name}/json")["State"]
        assert state["Running"] and state["OOMKilled"]
        running.stdin.close()
        assert running.wait(30) == 0
    assert len(client.out(*oom_events, "--until", str(int(time.time()) + 1)).splitlines()) == 2
    client("rm", name)
