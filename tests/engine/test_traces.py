"""Traces: every create, start, exec and exit leaves spans that name the driver which spent the time."""

from __future__ import annotations

from typing import Any

from ground.daemon import Daemon
from ground.waiting import wait_until


def spans(daemon: Daemon, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.api("GET", f"/containers/{name}/trace")["Spans"]
    return found


def test_each_phase_names_its_driver(daemon: Daemon) -> None:
    daemon.docker("run", "--name", "tt", "--storage-opt", "driver=vfs", "--runtime", "runc", "busybox", "true")
    wait_until(lambda: any(span["Operation"] == "exit" for span in spans(daemon, "tt")), "the exit is traced")
    told = {(span["Operation"], span["Phase"]): span["Driver"] for span in spans(daemon, "tt")}
    assert told["create", "storage.prepare"] == "vfs"
    assert told["start", "network.attach"] == "bridge"
    assert told["start", "storage.mounts"] == "vfs"
    assert told["start", "runtime.launch"] == "runc"
    assert told["exit", "network.detach"] == ""
    assert told["exit", "runtime.delete"] == "runc"


def test_phases_lie_within_their_start(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--name", "tt", "busybox", "sleep", "1000")
    (total,) = [span for span in spans(daemon, "tt") if (span["Operation"], span["Phase"]) == ("start", "total")]
    inner = [span for span in spans(daemon, "tt") if span["Operation"] == "start" and span["Phase"] != "total"]
    assert len(inner) > 5
    for span in inner:
        assert total["StartNs"] <= span["StartNs"]
        assert span["StartNs"] + span["DurationNs"] <= total["StartNs"] + total["DurationNs"]
        assert span["DurationNs"] > 0


def test_a_start_that_fails_is_traced_too(daemon: Daemon) -> None:
    daemon.docker("create", "--name", "tt", "busybox", "no-such-program")
    daemon.docker("start", "tt", check=1)
    assert any(span["Phase"] == "runtime.launch" for span in spans(daemon, "tt"))


def test_spans_survive_a_restart_of_the_daemon(own_daemon: Daemon) -> None:
    daemon = own_daemon
    daemon.docker("run", "--name", "tt", "busybox", "true")
    wait_until(lambda: daemon.api("GET", "/containers/tt/json")["State"]["Status"] == "exited", "the exit is recorded")
    before = spans(daemon, "tt")
    daemon.stop()
    daemon.start()
    assert spans(daemon, "tt") == before
    daemon.docker("rm", "tt")
    daemon.stop()


def test_the_waterfall(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--name", "tt", "busybox", "sleep", "1000")
    text = daemon.sampan("trace", "tt").stdout.decode()
    for word in ("create", "storage.prepare", "overlayfs", "network.attach", "bridge", "runtime.launch", "native", "ms"):
        assert word in text
