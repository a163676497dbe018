from __future__ import annotations

import struct
from typing import Any

import pytest

from sampan.linux.cgroup_devices import DeviceRules
from sampan.linux.cgroup_limits import limits_v1, limits_v2, weight_of_blkio, weight_of_shares
from sampan.linux.cgroups import Cgroup, Layout

MIB = 1 << 20


def test_layouts() -> None:
    assert Layout({"cpu": "/c/cpu", "memory": "/c/memory"}).version == "v1"
    assert Layout({"cpu": "/c/cpu", "name=systemd": "/c/systemd"}, "/c/unified").version == "hybrid"
    assert Layout({}, "/c").version == "v2"
    assert Layout({"name=systemd": "/c/systemd"}, "/c").version == "v2"
    comounted = Layout({"cpu": "/c/cpu,cpuacct", "cpuacct": "/c/cpu,cpuacct", "pids": "/c/pids"}, "/c/unified")
    assert comounted.roots == ("/c/cpu,cpuacct", "/c/pids", "/c/unified")


def test_directories_fall_back_to_the_unified_tree() -> None:
    cgroup = Cgroup("/sampan/x", Layout({"memory": "/c/memory"}, "/c/unified"))
    assert cgroup.directory("memory") == "/c/memory/sampan/x"
    assert cgroup.directory() == "/c/unified/sampan/x"


@pytest.mark.parametrize("path", ["", "/", "relative/x", "/a/../../b", "/a/\0"])
def test_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not absolute and plain"):
        Cgroup(path, Layout({}, "/c"))


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 39), (262144, 10000), (0, 1), (10**9, 10000)])
def test_weight_of_shares(shares: int, weight: int) -> None:
    assert weight_of_shares(shares) == weight


@pytest.mark.parametrize(("weight", "io"), [(10, 1), (1000, 10000), (500, 4950)])
def test_weight_of_blkio(weight: int, io: int) -> None:
    assert weight_of_blkio(weight) == io


def test_limits_of_v1() -> None:
    resources = {
        "memory": {"limit": 64 * MIB, "swap": 128 * MIB, "reservation": 32 * MIB, "swappiness": 0},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0-1", "mems": "0"},
        "pids": {"limit": -1},
        "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]},
    }
    assert limits_v1(resources) == [
        ("memory", "memory.limit_in_bytes", str(64 * MIB)),
        ("memory", "memory.memsw.limit_in_bytes", str(128 * MIB)),
        ("memory", "memory.soft_limit_in_bytes", str(32 * MIB)),
        ("memory", "memory.swappiness", "0"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("cpuset", "cpuset.cpus", "0-1"),
        ("cpuset", "cpuset.mems", "0"),
        ("pids", "pids.max", "max"),
        ("blkio", "blkio.throttle.read_bps_device", "8:0 1000"),
    ]


@pytest.mark.parametrize(
    ("now", "limit", "swap", "first"),
    [
        (32 * MIB, 64 * MIB, 128 * MIB, "memory.memsw.limit_in_bytes"),
        (128 * MIB, 64 * MIB, 128 * MIB, "memory.limit_in_bytes"),
        (128 * MIB, 64 * MIB, -1, "memory.memsw.limit_in_bytes"),
    ],
)
def test_v1_memory_is_never_above_memory_and_swap(now: int, limit: int, swap: int, first: str) -> None:
    writes = limits_v1({"memory": {"limit": limit, "swap": swap}}, now)
    assert [file for _, file, _ in writes][0] == first
    assert len(writes) == 2


def test_limits_of_v2() -> None:
    resources = {
        "memory": {"limit": 64 * MIB, "swap": 128 * MIB, "reservation": 32 * MIB},
        "cpu": {"shares": 1024, "quota": -1, "period": 100000, "cpus": "0"},
        "pids": {"limit": 7},
        "blockIO": {"weight": 500, "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 10}]},
        "unified": {"memory.high": "1000"},
    }
    assert [(file, value) for _, file, value in limits_v2(resources)] == [
        ("memory.swap.max", str(64 * MIB)),
        ("memory.max", str(64 * MIB)),
        ("memory.low", str(32 * MIB)),
        ("cpu.weight", "39"),
        ("cpu.max", "max 100000"),
        ("cpuset.cpus", "0"),
        ("pids.max", "7"),
        ("io.weight", "default 4950"),
        ("io.max", "8:0 wiops=10"),
        ("memory.high", "1000"),
    ]


@pytest.mark.parametrize(
    "resources",
    [
        {"memory": {"swap": 10}},
        {"memory": {"limit": 10, "swap": 5}},
        {"memory": {"disableOOMKiller": True}},
        {"cpu": {"realtimeRuntime": 5}},
        {"unified": {"../../x": "1"}},
    ],
)
def test_what_v2_cannot_express_is_refused(resources: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        limits_v2(resources)


def permits(rules: DeviceRules, kind: str, major: int, minor: int, access: str) -> bool:
    """Run the eBPF program on one access."""
    bits = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access)
    context = struct.pack("=III", bits << 16 | {"b": 1, "c": 2}[kind], major, minor)
    registers = [0] * 11
    code = list(struct.iter_unpack("=BBhi", rules.program()))
    at = 0
    while True:
        op, pair, offset, value = code[at]
        target, source = pair & 15, pair >> 4
        at += 1
        if op == 0x61:
            registers[target] = struct.unpack_from("=I", context, offset)[0]
        elif op == 0xBF:
            registers[target] = registers[source]
        elif op == 0x57:
            registers[target] &= value
        elif op == 0x77:
            registers[target] >>= value
        elif op == 0xB7:
            registers[target] = value
        elif op == 0x55:
            at += offset if registers[target] != value else 0
        elif op == 0x15:
            at += offset if registers[target] == value else 0
        elif op == 0x95:
            return bool(registers[0])
        else:
            raise AssertionError(f"instruction {op:#x}")


def test_docker_devices_in_ebpf() -> None:
    rules = DeviceRules.of_spec(
        [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "access": "m"},
            {"allow": True, "type": "b", "access": "m"},
            {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
            {"allow": True, "type": "c", "major": 136, "access": "rw"},
            {"allow": False, "type": "c", "major": 1, "minor": 3, "access": "w"},
        ]
    )
    assert permits(rules, "c", 1, 3, "r")
    assert not permits(rules, "c", 1, 3, "w")
    assert not permits(rules, "c", 1, 3, "rw")
    assert permits(rules, "c", 136, 77, "rw")
    assert not permits(rules, "b", 8, 0, "r")
    assert permits(rules, "b", 8, 0, "m")


def test_exceptions_from_all_devices_in_ebpf() -> None:
    rules = DeviceRules.of_spec([{"allow": True, "access": "rwm"}, {"allow": False, "type": "b", "major": 8, "access": "w"}])
    assert permits(rules, "b", 8, 1, "r")
    assert not permits(rules, "b", 8, 1, "rw")
    assert permits(rules, "b", 9, 1, "rw")


def test_bad_device_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="device rule"):
        DeviceRules.of_spec([{"allow": True, "type": "z"}])
