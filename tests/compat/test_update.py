"""`docker update`: other limits for a container that exists, in the kernel at once and in the record for good."""

from __future__ import annotations

import json
import os

import pytest

from compat.conftest import Client
from compat.test_limits import cgroup_value
from ground.daemon import Daemon

LIMITED = ("-m", "64m", "--memory-swap", "128m", "--cpus", "0.5", "--pids-limit", "20")


def settings(client: Client, container: str, *names: str) -> list[object]:
    found = json.loads(client.out("inspect", container))[0]["HostConfig"]
    return [found[name] for name in names]


def limits(client: Client, container: str) -> tuple[str, str, str]:
    return (
        cgroup_value(client, container, "memory/memory.limit_in_bytes", "memory.max"),
        cgroup_value(client, container, "cpu/cpu.cfs_quota_us", "cpu.max").split()[0],
        cgroup_value(client, container, "pids/pids.max", "pids.max"),
    )


def test_a_running_container_gets_other_limits_at_once_and_keeps_them(client: Client, daemon: Daemon) -> None:
    container = client.out("run", "-d", *LIMITED, "busybox", "sleep", "60")
    done = client("update", "-m", "256m", "--memory-swap", "512m", "--cpus", "1", "--pids-limit", "30", container)
    assert (done.stdout.decode().strip(), done.stderr) == (container, b"")
    wanted = (str(256 << 20), "100000", "30")
    assert limits(client, container) == wanted
    assert settings(client, container, "Memory", "MemorySwap", "NanoCpus", "PidsLimit") == [
        256 << 20,
        512 << 20,
        10**9,
        30,
    ]
    daemon.kill()
    daemon.start()
    assert settings(client, container, "Memory", "MemorySwap", "NanoCpus", "PidsLimit") == [
        256 << 20,
        512 << 20,
        10**9,
        30,
    ]
    client("restart", "-t", "0", container)
    assert limits(client, container) == wanted


def test_a_limit_goes_below_the_old_one_with_its_swap(client: Client) -> None:
    container = client.out("run", "-d", *LIMITED, "busybox", "sleep", "60")
    client("update", "-m", "32m", "--memory-swap", "48m", container)
    assert limits(client, container)[0] == str(32 << 20)
    client("update", "-m", "40m", container)
    assert settings(client, container, "Memory", "MemorySwap") == [40 << 20, 48 << 20]
    client("update", "--memory-swap", "-1", container)
    client("update", "--cpu-shares", "512", container)  # which says nothing about memory
    assert settings(client, container, "Memory", "MemorySwap") == [40 << 20, -1]


def test_a_limit_of_processes_is_taken_away(client: Client) -> None:
    container = client.out("run", "-d", *LIMITED, "busybox", "sleep", "60")
    client("update", "--pids-limit", "-1", container)
    assert limits(client, container) == (str(64 << 20), "50000", "max")


def test_a_stopped_container_gets_them_at_its_next_start(client: Client) -> None:
    container = client.out("create", "busybox", "sleep", "60")
    client("update", "-c", "512", "--cpuset-cpus", "0", "--cpu-quota", "20000", container)
    client("start", container)
    assert cgroup_value(client, container, "cpuset/cpuset.cpus", "cpuset.cpus") == "0"
    assert limits(client, container)[1] == "20000"


def test_a_paused_container_is_updated_and_stays_paused(client: Client) -> None:
    container = client.out("run", "-d", *LIMITED, "busybox", "sleep", "60")
    client("pause", container)
    client("update", "--pids-limit", "33", container)
    assert limits(client, container)[2] == "33"
    assert client.out("inspect", "-f", "{{.State.Status}}", container) == "paused"


def test_the_restart_policy_counts_from_now_on(client: Client) -> None:
    container = client.out("run", "-d", "--restart", "always", "busybox", "sleep", "60")
    client("update", "--restart", "on-failure:3", container)
    assert settings(client, container, "RestartPolicy") == [{"Name": "on-failure", "MaximumRetryCount": 3}]
    client("update", "--restart", "no", container)
    with client.start("wait", container) as waiting:
        client("kill", "-s", "KILL", container)
        assert waiting.wait(20) == 0
    assert client.out("inspect", "-f", "{{.State.Status}}", container) == "exited"


@pytest.mark.parametrize(
    ("given", "asked", "words"),
    [
        (LIMITED, ("-m", "1g"), "Memory limit should be smaller than already set memoryswap limit"),
        ((), ("-m", "64m"), "Memory limit should be smaller than already set memoryswap limit"),
        (LIMITED, ("--cpu-quota", "50000"), "CPU Quota cannot be updated as NanoCPUs has already been set"),
        (("--cpu-period", "50000"), ("--cpus", "1"), "Nano CPUs cannot be updated as CPU Period has already been set"),
        (("--rm",), ("--restart", "always"), "Restart policy cannot be updated because AutoRemove is enabled"),
        ((), ("-m", "1m", "--memory-swap", "2m"), "Minimum memory limit allowed is 6MB"),
        (LIMITED, ("--memory-swap", "32m"), "Minimum memoryswap limit should be larger than memory limit"),
        ((), ("--cpus", "4096"), "Range of CPUs is from 0.01"),
    ],
)
def test_what_contradicts_is_refused_and_nothing_changes(
    client: Client, given: tuple[str, ...], asked: tuple[str, ...], words: str
) -> None:
    container = client.out("run", "-d", *given, "busybox", "sleep", "60")
    before = (limits(client, container), client.out("inspect", "-f", "{{json .HostConfig}}", container))
    assert words in client("update", *asked, container, check=1).stderr.decode()
    assert (limits(client, container), client.out("inspect", "-f", "{{json .HostConfig}}", container)) == before


def test_what_the_kernel_refuses_is_told_and_not_recorded(client: Client) -> None:
    script = "mount -o remount,size=200m /dev/shm; head -c 100m /dev/zero > /dev/shm/x; echo full; sleep 60"
    options = ("-m", "256m", "--memory-swap", "256m", "--privileged")
    container = client.out("run", "-d", *options, "busybox", "sh", "-c", script)
    with client.start("logs", "-f", container) as logs:
        assert logs.stdout is not None and logs.stdout.readline() == b"full\n"
    done = client("update", "-m", "16m", "--memory-swap", "16m", container, check=None)
    if done.returncode:  # v1 refuses what would need a kill; v2 reclaims and kills
        assert b"Cannot update container" in done.stderr
        assert settings(client, container, "Memory") == [256 << 20]


def test_only_what_can_be_updated_is(daemon: Daemon, docker: Client) -> None:
    container = docker.out("run", "-d", "busybox", "sleep", "60")
    answer = daemon.api("POST", f"/containers/{container}/update", {"CpuShares": 512, "MemorySwappiness": 5})
    assert answer == {"Warnings": ["MemorySwappiness cannot be updated: it stays as it was"]}
    assert settings(docker, container, "CpuShares", "MemorySwappiness") == [512, None]
    assert daemon.api("POST", f"/v1.39/containers/{container}/update", {"PidsLimit": 5}) == {"Warnings": None}
    assert not settings(docker, container, "PidsLimit")[0]


def test_an_update_is_an_event(client: Client, daemon: Daemon) -> None:
    container = client.out("run", "-d", "busybox", "sleep", "60")
    client("update", "--cpuset-cpus", f"0-{(os.cpu_count() or 1) - 1}", container)
    options = (
        "--since",
        "1",
        "--filter",
        "event=update",
        "--filter",
        f"container={container}",
        "--format",
        "{{.Actor.ID}}",
    )
    with client.start("events", *options) as events:
        assert events.stdout is not None and events.stdout.readline().decode().strip() == container
