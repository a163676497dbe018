from __future__ import annotations

import json
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sampan.linux.cgroup_devices import DeviceRules
from sampan.linux.cgroup_limits import limits_v1, limits_v2, weight_of_blkio, weight_of_shares
from sampan.linux.cgroup_oom import OomWatch
from sampan.linux.cgroup_stats import BlockCount, Stats, read_stats
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


def lay(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


def test_stats_of_v1(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "cpu/x/cpu.stat": "nr_periods 9\nnr_throttled 4\nthrottled_time 1234\n",
            "cpu/x/cpuacct.usage": "5000000000\n",
            "cpu/x/cpuacct.stat": "user 300\nsystem 200\n",
            "cpu/x/cpuacct.usage_percpu": "2000000000 3000000000 \n",
            "memory/x/memory.usage_in_bytes": "4096\n",
            "memory/x/memory.max_usage_in_bytes": "8192\n",
            "memory/x/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/x/memory.failcnt": "3\n",
            "memory/x/memory.stat": "cache 1\ntotal_inactive_file 2\n",
            "pids/x/pids.current": "7\n",
            "pids/x/pids.max": "max\n",
            "blkio/x/blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Total 4096\nTotal 4096\n",
        },
    )
    hierarchies = {name: str(tmp_path / name) for name in ("cpu", "memory", "blkio", "pids")}
    stats = read_stats(Layout({**hierarchies, "cpuacct": hierarchies["cpu"]}), "/x")
    assert (stats.version, stats.cpu.total_ns, stats.cpu.percpu_ns) == (1, 5 * 10**9, (2 * 10**9, 3 * 10**9))
    assert (stats.cpu.user_ns, stats.cpu.system_ns) == (3 * 10**9, 2 * 10**9)
    assert (stats.cpu.periods, stats.cpu.throttled_periods, stats.cpu.throttled_ns) == (9, 4, 1234)
    assert (stats.memory.usage, stats.memory.peak, stats.memory.limit, stats.memory.failures) == (4096, 8192, None, 3)
    assert stats.memory.stat == {"cache": 1, "total_inactive_file": 2}
    assert (stats.pids.current, stats.pids.limit) == (7, None)
    assert stats.block.service_bytes == (BlockCount(8, 0, "Read", 4096), BlockCount(8, 0, "Total", 4096))
    assert stats.block.serviced == ()


def test_stats_of_v2_and_their_way_through_json(tmp_path: Path) -> None:
    lay(
        tmp_path / "x",
        {
            "cpu.stat": "usage_usec 50\nuser_usec 30\nsystem_usec 20\nnr_periods 9\nnr_throttled 4\nthrottled_usec 7\n",
            "memory.current": "4096\n",
            "memory.max": "8192\n",
            "memory.events": "low 0\nmax 5\noom 2\noom_kill 1\n",
            "memory.stat": "anon 1\ninactive_file 2\n",
            "pids.current": "7\n",
            "pids.max": "9\n",
            "io.stat": "8:0 rbytes=4096 wbytes=1 rios=2 wios=3 dbytes=0 dios=0\n9:0\n",
        },
    )
    stats = read_stats(Layout({}, str(tmp_path)), "/x")
    assert (stats.version, stats.cpu.total_ns, stats.cpu.user_ns, stats.cpu.system_ns) == (2, 50_000, 30_000, 20_000)
    assert (stats.cpu.periods, stats.cpu.throttled_periods, stats.cpu.throttled_ns) == (9, 4, 7000)
    assert (stats.memory.usage, stats.memory.peak, stats.memory.limit, stats.memory.failures) == (4096, 0, 8192, 2)
    assert (stats.pids.current, stats.pids.limit) == (7, 9)
    assert stats.block.service_bytes[:2] == (BlockCount(8, 0, "Read", 4096), BlockCount(8, 0, "Write", 1))
    assert stats.block.serviced[:2] == (BlockCount(8, 0, "Read", 2), BlockCount(8, 0, "Write", 3))
    assert Stats.of_data(json.loads(json.dumps(asdict(stats)))) == stats


def test_stats_of_a_cgroup_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_stats(Layout({}, str(tmp_path)), "/x")


def test_watch_of_a_cgroup_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        OomWatch(Cgroup("/x", Layout({"memory": str(tmp_path)})))
