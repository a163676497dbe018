"""What an idle engine holds."""

from __future__ import annotations

from pathlib import Path

from ground.daemon import new_daemon

BUDGET = 47 << 20
"""Bytes of the daemon and the zygote together that are nobody else's; the pages of files beside them are shared with every Python."""


def test_an_idle_engine_stays_within_its_budget() -> None:
    with new_daemon() as daemon:
        daemon.start()
        assert daemon.process is not None
        pid = daemon.process.pid
        children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
        assert len(children) == 1, "the zygote"
        held = {process: _anonymous(process) for process in (pid, *children)}
        daemon.stop()
    assert sum(held.values()) < BUDGET, held


def _anonymous(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no such line")
