"""`docker stats`: what a container uses, as Docker's clients read it."""

from __future__ import annotations

import json
import os
import re
import socket
from typing import Any

import pytest

from compat.conftest import Client
from ground.daemon import Daemon
from ground.waiting import wait_until

BURN = ("busybox", "sh", "-c", "while :; do :; done")


def reading(daemon: Daemon, container: str, query: str = "stream=0&one-shot=1") -> dict[str, Any]:
    answer: dict[str, Any] = daemon.api("GET", f"/containers/{container}/stats?{query}")
    return answer


def row(client: Client, container: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(client.out("stats", "--no-stream", "--format", "json", container))
    return found


def test_a_busy_container_is_seen_to_be(client: Client) -> None:
    container = client.out("run", "-d", "--name", "busy", "-m", "64m", "--cpus", "0.3", *BURN)
    shown = row(client, container)
    assert 10 < float(shown["CPUPerc"].removesuffix("%")) < 50
    assert shown["MemUsage"].endswith(" / 64MiB")
    assert (shown["Name"], shown["ID"], shown["PIDs"]) == ("busy", container[:12], "1")


def test_memory_is_counted_without_the_cache_that_can_go(client: Client, daemon: Daemon) -> None:
    script = "head -c 20m /dev/zero > /x; cat /x > /dev/null; echo done; sleep 60"
    container = client.out("run", "-d", "busybox", "sh", "-c", script)
    wait_until(lambda: "done" in client.out("logs", container), "the file is written")
    memory = reading(daemon, container)["memory_stats"]
    assert memory["usage"] > 20 << 20
    used, _, limit = row(client, container)["MemUsage"].partition(" / ")
    assert float(used.removesuffix("MiB").removesuffix("KiB")) < (10 if used.endswith("MiB") else 1024)
    assert limit.endswith("GiB")


def test_what_a_container_sends_is_counted_on_its_interface(client: Client, daemon: Daemon) -> None:
    container = client.out("run", "-d", "busybox", "sleep", "60")
    before = reading(daemon, container)["networks"]
    client("exec", container, "ping", "-c", "2", "-i", "0.2", "172.31.77.1")
    after = reading(daemon, container)["networks"]
    assert set(before) == set(after) == {"eth0"}
    assert after["eth0"]["tx_packets"] >= before["eth0"]["tx_packets"] + 2
    assert after["eth0"]["rx_bytes"] > before["eth0"]["rx_bytes"]
    peer = client.out("run", "-d", "--network", f"container:{container}", "busybox", "sleep", "60")
    assert reading(daemon, peer)["networks"]["eth0"]["tx_packets"] >= after["eth0"]["tx_packets"]


@pytest.mark.parametrize("network", ["none", "host"])
def test_a_container_without_a_network_of_its_own_has_no_counts(docker: Client, daemon: Daemon, network: str) -> None:
    container = docker.out("run", "-d", "--network", network, "busybox", "sleep", "60")
    assert "networks" not in reading(daemon, container)


def test_the_answer_has_dockers_fields(docker: Client, daemon: Daemon) -> None:
    """Those of dockerd on the same cgroup version; `limit` of processes is left out on v1 where there is none."""
    container = docker.out("run", "-d", "--pids-limit", "7", "busybox", "sleep", "60")
    found = reading(daemon, container)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", found["read"])
    assert found["preread"] == "0001-01-01T00:00:00Z"
    assert found["pids_stats"] == {"current": 1, "limit": 7}
    assert set(found["cpu_stats"]) == {"cpu_usage", "system_cpu_usage", "online_cpus", "throttling_data"}
    assert set(found["precpu_stats"]) == {"cpu_usage", "throttling_data"}
    assert found["cpu_stats"]["online_cpus"] == os.cpu_count()
    assert set(found["blkio_stats"]) == {
        "io_service_bytes_recursive", "io_serviced_recursive", "io_queue_recursive", "io_service_time_recursive",
        "io_wait_time_recursive", "io_merged_recursive", "io_time_recursive", "sectors_recursive",
    }  # fmt: skip
    assert found["memory_stats"]["limit"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found["memory_stats"]["stats"]["inactive_file"] >= 0
    assert (found["num_procs"], found["storage_stats"]) == (0, {})


def test_without_a_stream_the_answer_has_the_reading_before_it(docker: Client, daemon: Daemon) -> None:
    container = docker.out("run", "-d", "busybox", "sleep", "60")
    found = reading(daemon, container, "stream=0")
    assert found["preread"] < found["read"] and not found["preread"].startswith("0001")
    assert found["precpu_stats"]["system_cpu_usage"] < found["cpu_stats"]["system_cpu_usage"]


def test_a_container_that_does_not_run_uses_nothing(client: Client, daemon: Daemon) -> None:
    container = client.out("create", "--name", "still", "busybox", "true")
    found = reading(daemon, container, "stream=0")
    assert (found["id"], found["name"], found["read"]) == (container, "/still", "0001-01-01T00:00:00Z")
    assert (found["pids_stats"], found["memory_stats"]) == ({}, {})
    assert row(client, container)["MemUsage"] == "0B / 0B"


def test_a_stream_has_a_reading_each_second_through_stop_and_start_until_the_removal(
    docker: Client, daemon: Daemon
) -> None:
    container = docker.out("run", "-d", "busybox", "sleep", "60")
    with Watcher(daemon, container) as watcher:
        first, second = watcher.next(), watcher.next()
        assert first["preread"].startswith("0001") and second["preread"] == first["read"]
        docker("kill", container)
        while watcher.next()["pids_stats"]:
            pass
        docker("start", container)
        while not watcher.next()["pids_stats"]:
            pass
        docker("rm", "-f", container)
        while watcher.next():
            pass


def test_many_watchers_share_the_readings(docker: Client, daemon: Daemon) -> None:
    container = docker.out("run", "-d", "busybox", "sleep", "60")
    with Watcher(daemon, container) as one:
        one.next()
        others = [Watcher(daemon, container) for _ in range(20)]
        try:
            times = {other.next()["read"] for other in others} | {other.next()["read"] for other in others}
            times |= {one.next()["read"] for _ in range(2)}
        finally:
            for other in others:
                other.close()
    assert len(times) <= 5, "21 watchers of two readings each"


def test_who_is_unnamed_is_all_that_run(client: Client) -> None:
    running = client.out("run", "-d", "busybox", "sleep", "60")[:12]
    stopped = client.out("create", "busybox", "true")[:12]
    assert client.out("stats", "--no-stream", "--format", "{{.ID}}").split() == [running]
    assert set(client.out("stats", "-a", "--no-stream", "--format", "{{.ID}}").split()) == {running, stopped}
    lines = client.out("stats", "--no-stream").splitlines()
    assert lines[0].split() == "CONTAINER ID NAME CPU % MEM USAGE / LIMIT MEM % NET I/O BLOCK I/O PIDS".split()


def test_the_live_picture_gains_containers_as_they_start(client: Client) -> None:
    with client.start("stats", "--format", "<{{.Name}}>") as shown:
        assert shown.stdout is not None
        client("run", "-d", "--name", "late", "busybox", "sleep", "60")
        seen = b""
        while b"<late>" not in seen:
            seen += os.read(shown.stdout.fileno(), 65536)


def test_refusals(client: Client, daemon: Daemon) -> None:
    assert b"No such container: absent" in client("stats", "--no-stream", "absent", check=1).stderr
    container = client.out("create", "busybox", "true")
    status, answer = daemon.api_raw("GET", f"/containers/{container}/stats?one-shot=1&stream=1")
    assert (status, json.loads(answer)["message"]) == (400, "cannot have stream=true and one-shot=true")


class Watcher:
    """A client that reads the stream of a container's stats over a connection of its own."""

    def __init__(self, daemon: Daemon, container: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(str(daemon.socket))
        self._socket.sendall(f"GET /containers/{container}/stats HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        self._file = self._socket.makefile("rb")
        while self._file.readline().strip():
            pass

    def next(self) -> dict[str, Any]:
        """Give the next reading; an empty one at the end."""
        for line in self._file:
            if line.startswith(b"{"):
                found: dict[str, Any] = json.loads(line)
                return found
        return {}

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
