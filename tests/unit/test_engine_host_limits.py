from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from sampan.api.types import HostConfig
from sampan.engine import host_limits as module
from sampan.engine.host_limits import HostLimits, discard_missing
from sampan.linux import cgroups

NOTHING = HostLimits(**{field.name: False for field in fields(HostLimits)})

DEVICE = [{"Path": "/dev/null", "Rate": 1}]


@pytest.mark.parametrize(
    ("values", "left", "warning"),
    [
        ({"Memory": 1 << 30}, {"memory": 0, "memory_swap": -1},
         "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded."),
        ({"MemoryReservation": 1 << 30}, {"memory_reservation": 0},
         "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded."),
        ({"MemorySwappiness": 5}, {"memory_swappiness": None},
         "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded."),
        ({"OomKillDisable": True}, {"oom_kill_disable": None}, "Your kernel does not support OomKillDisable. OomKillDisable discarded."),
        ({"PidsLimit": 5}, {"pids_limit": None},
         "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded."),
        ({"CpuShares": 5}, {"cpu_shares": 0}, "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded."),
        ({"CpuQuota": 5000}, {"cpu_quota": 0}, "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded."),
        ({"CpusetCpus": "0"}, {"cpuset_cpus": ""}, "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded."),
        ({"BlkioWeight": 100}, {"blkio_weight": 0},
         "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."),
        ({"BlkioDeviceReadBps": DEVICE}, {"blkio_device_read_bps": []},
         "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit discarded."),
        ({"BlkioDeviceWriteIOps": DEVICE}, {"blkio_device_write_i_ops": []},
         "Your kernel does not support IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit discarded."),
    ],
)  # fmt: skip
def test_what_the_host_lacks_is_discarded_with_dockers_warning(values: dict[str, Any], left: dict[str, Any], warning: str) -> None:
    host = HostConfig.model_validate(values)
    assert discard_missing(host, HostLimits()) == []
    assert host == HostConfig.model_validate(values)
    assert discard_missing(host, NOTHING) == [warning]
    assert {name: getattr(host, name) for name in left} == left


def test_memory_without_swap() -> None:
    host = HostConfig(memory=1 << 30)
    (warning,) = discard_missing(host, HostLimits(swap=False))
    assert warning.endswith("Memory limited without swap.")
    assert (host.memory, host.memory_swap) == (1 << 30, -1)


def test_nothing_asked_nothing_warned_of() -> None:
    assert discard_missing(HostConfig(memory_swappiness=-1, pids_limit=-1, oom_kill_disable=False), NOTHING) == []


def test_pure_v2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    monkeypatch.setattr(module.cgroups, "detect", lambda: cgroups.Layout({}, str(tmp_path)))
    module.host_limits.cache_clear()
    found = module.host_limits()
    assert (found.memory, found.swap, found.cpu_quota, found.pids) == (True, True, True, True)
    assert (found.cpuset, found.io_weight, found.oom_kill_disable, found.swappiness, found.cpu_realtime) == (False,) * 5
    (tmp_path / "a.slice").mkdir()
    (tmp_path / "a.slice/memory.max").touch()
    module.host_limits.cache_clear()
    assert not module.host_limits().swap
    module.host_limits.cache_clear()


def test_v1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("memory.limit_in_bytes", "cpu.shares", "blkio.throttle.read_bps_device"):
        (tmp_path / name).touch()
    layout = cgroups.Layout(dict.fromkeys(("memory", "cpu", "blkio", "pids"), str(tmp_path)))
    monkeypatch.setattr(module.cgroups, "detect", lambda: layout)
    module.host_limits.cache_clear()
    found = module.host_limits()
    module.host_limits.cache_clear()
    assert (found.memory, found.cpu_shares, found.io_read_bps, found.pids) == (True,) * 4
    assert (found.swap, found.cpu_realtime, found.io_write_bps, found.cpuset) == (False,) * 4
