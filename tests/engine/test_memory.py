"""What an idle engine holds, and what an idle container costs it."""

from __future__ import annotations

import tarfile
from pathlib import Path

from ground.daemon import Daemon, new_daemon

BUDGET = 48 << 20
"""Bytes of the daemon and the zygote together that are nobody else's; the pages of files beside them are shared with every Python."""

SHIM_BUDGET = 2_500_000
"""Bytes that the shim of an idle container has to itself, and shares with nobody (docs/adr/0168-what-a-shim-weighs.md)."""


def test_an_idle_shim_stays_within_its_budget(daemon: Daemon) -> None:
    for _ in range(3):
        daemon.docker("run", "--detach", "busybox", "sleep", "1000")
    held = {pid: _rollup(pid, "Private_Dirty:") for zygote in _children(daemon.pid) for pid in _children(zygote)}
    assert len(held) == 3
    assert max(held.values()) < SHIM_BUDGET, held


def _children(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def test_an_idle_engine_stays_within_its_budget_also_when_it_has_taken_in_images(tmp_path: Path) -> None:
    big = tmp_path / "big.tar"
    with tarfile.open(big, "w") as tar:
        member = tarfile.TarInfo("random")
        member.size = 20 << 20
        with Path("/dev/urandom").open("rb") as data:
            tar.addfile(member, data)
    with new_daemon() as daemon:
        daemon.start()
        held = [_idle(daemon)]
        daemon.api("POST", "/sampan/images/bootstrap")
        daemon.docker("import", str(big), "big")
        held.append(_idle(daemon))
        daemon.stop()
    assert max(map(sum, held)) < BUDGET, held


def _idle(daemon: Daemon) -> list[int]:
    (zygote,) = _children(daemon.pid)
    return [_rollup(process, "Anonymous:") for process in (daemon.pid, zygote)]


def _rollup(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) << 10
    raise AssertionError("no such line")
