from __future__ import annotations

import os
from typing import Any

import pytest

from sampan.api.errors import InvalidArgument
from sampan.api.types import HostConfig
from sampan.engine import resources
from sampan.engine.host_limits import HostLimits
from sampan.engine.resources import check_limits, linux_resources

CPUS = os.cpu_count() or 1
MEGABYTE = 1 << 20


def host(**values: Any) -> HostConfig:
    return HostConfig.model_validate(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"Memory": 5 * MEGABYTE}, "Minimum memory limit allowed is 6MB"),
        ({"Memory": -1}, "Minimum memory limit allowed is 6MB"),
        ({"MemorySwap": 10 * MEGABYTE}, "You should always set the Memory limit when using Memoryswap limit, see usage"),
        (
            {"Memory": 64 * MEGABYTE, "MemorySwap": 32 * MEGABYTE},
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ),
        (
            {"Memory": 64 * MEGABYTE, "MemoryReservation": 65 * MEGABYTE},
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ),
        ({"MemoryReservation": 1}, "Minimum memory reservation allowed is 6MB"),
        ({"CpuShares": -1}, "invalid CPU shares (-1): value must be a positive integer"),
        ({"MemorySwappiness": 101}, "Invalid value: 101, valid memory swappiness range is 0-100"),
        ({"NanoCpus": 1, "CpuQuota": 5000}, "Conflicting options: Nano CPUs and CPU Period/Quota cannot both be set"),
        (
            {"NanoCpus": (CPUS + 1) * 10**9},
            f"Range of CPUs is from 0.01 to {CPUS}.00, as there are only {CPUS} CPUs available",
        ),
        ({"NanoCpus": -1}, f"Range of CPUs is from 0.01 to {CPUS}.00, as there are only {CPUS} CPUs available"),
        ({"CpuPeriod": 999}, "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"),
        ({"CpuQuota": 999}, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
        ({"BlkioWeight": 9}, "Range of blkio weight is from 10 to 1000"),
        ({"OomScoreAdj": 1001}, "Invalid value 1001, range for oom score adj is [-1000, 1000]"),
        ({"ShmSize": -1}, "SHM size can not be less than 0"),
        ({"CpusetCpus": "none"}, "Invalid value none for cpuset cpus"),
        ({"CpusetMems": "0-"}, "Invalid value 0- for cpuset mems"),
        ({"CpusetCpus": "4095"}, "Requested CPUs are not available - requested 4095, available: "),
    ],
)
def test_refusals_are_dockers(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_limits(host(**values))
    assert str(caught.value).startswith(message)


def test_real_time_cpu_is_for_kernels_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = host(CpuRealtimePeriod=1_000_000, CpuRealtimeRuntime=950_000)
    monkeypatch.setattr(resources, "host_limits", lambda: HostLimits(cpu_realtime=True))
    assert check_limits(asked) == []
    with pytest.raises(InvalidArgument, match="cpu real-time runtime cannot be higher than cpu real-time period"):
        check_limits(host(CpuRealtimePeriod=1000, CpuRealtimeRuntime=1001))
    monkeypatch.setattr(resources, "host_limits", lambda: HostLimits(cpu_realtime=False))
    with pytest.raises(InvalidArgument, match="kernel does not support CPU real-time scheduler"):
        check_limits(asked)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"Memory": 6 * MEGABYTE},
        {"Memory": 6 * MEGABYTE, "MemorySwap": -1},
        {"MemorySwap": -1},
        {"MemorySwappiness": -1},
        {"NanoCpus": CPUS * 10**9},
        {"CpuQuota": -1},
        {"CpusetCpus": "0", "CpusetMems": "0"},
        {"PidsLimit": -1},
    ],
)
def test_good_limits_are_silent(values: dict[str, Any]) -> None:
    assert check_limits(host(**values)) == []


def test_an_oom_killer_off_without_a_limit_is_warned_of() -> None:
    assert "OOM killer is disabled" in check_limits(host(OomKillDisable=True))[0]
    assert check_limits(host(OomKillDisable=True, Memory=64 * MEGABYTE)) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {}),
        ({"Memory": 64 * MEGABYTE}, {"memory": {"limit": 64 * MEGABYTE, "swap": 128 * MEGABYTE}}),
        ({"Memory": 8 << 20, "MemorySwap": -1}, {"memory": {"limit": 8 << 20, "swap": -1}}),
        ({"MemoryReservation": 8 << 20}, {"memory": {"reservation": 8 << 20}}),
        ({"MemorySwappiness": 0}, {"memory": {"swappiness": 0}}),
        ({"MemorySwappiness": -1}, {}),
        ({"OomKillDisable": True}, {"memory": {"disableOOMKiller": True}}),
        ({"OomKillDisable": False}, {}),
        ({"NanoCpus": 1_500_000_000}, {"cpu": {"period": 100_000, "quota": 150_000}}),
        ({"CpuPeriod": 50_000, "CpuQuota": 25_000}, {"cpu": {"period": 50_000, "quota": 25_000}}),
        ({"CpuRealtimePeriod": 1000, "CpuRealtimeRuntime": 500}, {"cpu": {"realtimePeriod": 1000, "realtimeRuntime": 500}}),
        ({"CpuShares": 512}, {"cpu": {"shares": 512}}),
        ({"CpusetCpus": "0-1", "CpusetMems": "0"}, {"cpu": {"cpus": "0-1", "mems": "0"}}),
        ({"PidsLimit": 100}, {"pids": {"limit": 100}}),
        ({"PidsLimit": -1}, {}),
        ({"PidsLimit": 0}, {}),
        ({"BlkioWeight": 500}, {"blockIO": {"weight": 500}}),
        (
            {"BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": 9}], "BlkioDeviceWriteIOps": [{"Path": "/dev/zero", "Rate": 8}]},
            {
                "blockIO": {
                    "throttleReadBpsDevice": [{"major": 1, "minor": 3, "rate": 9}],
                    "throttleWriteIOPSDevice": [{"major": 1, "minor": 5, "rate": 8}],
                }
            },
        ),
        (
            {"BlkioWeightDevice": [{"Path": "/dev/null", "Weight": 10}]},
            {"blockIO": {"weightDevice": [{"major": 1, "minor": 3, "weight": 10}]}},
        ),
    ],
)
def test_oci_resources(values: dict[str, Any], expected: dict[str, Any]) -> None:
    assert linux_resources(host(**values)) == expected


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(InvalidArgument, match="limit block device '/dev/absent': no such file or directory"):
        linux_resources(host(BlkioDeviceReadBps=[{"Path": "/dev/absent", "Rate": 1}]))
