"""Which parts of a container's limits an update changes, and what goes to the runtime."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.api.types import HostConfig
from sampan.engine.update import changes, merge

MIB = 1 << 20


def host(**values: Any) -> HostConfig:
    return HostConfig.model_validate(values)


@pytest.mark.parametrize(
    ("before", "asked", "sent"),
    [
        ({"Memory": 64 * MIB}, {}, {}),
        ({"Memory": 64 * MIB, "CpuShares": 512}, {"CpuShares": 512}, {}),
        ({"Memory": 64 * MIB}, {"CpuShares": 512}, {"cpu": {"shares": 512}}),
        ({"Memory": 64 * MIB}, {"Memory": 32 * MIB}, {"memory": {"limit": 32 * MIB, "swap": 128 * MIB}}),
        ({"CpuShares": 2048}, {"NanoCpus": 5 * 10**8}, {"cpu": {"shares": 2048, "period": 100000, "quota": 50000}}),
        ({"PidsLimit": 5}, {"PidsLimit": 0}, {"pids": {"limit": -1}}),
        ({"PidsLimit": 5}, {"PidsLimit": -7}, {"pids": {"limit": -1}}),
        ({"PidsLimit": 5}, {}, {}),
        ({}, {"RestartPolicy": {"Name": "always"}}, {}),
    ],
)
def test_what_goes_to_the_runtime(before: dict[str, Any], asked: dict[str, Any], sent: dict[str, Any]) -> None:
    assert changes(host(**before), merge(host(**before), host(**asked))) == sent


def test_what_is_not_named_stays() -> None:
    before = host(Memory=64 * MIB, CpusetCpus="0", Privileged=True, RestartPolicy={"Name": "always"})
    assert merge(before, host(CpusetCpus="", Memory=0)) == before
