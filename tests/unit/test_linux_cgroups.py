from __future__ import annotations

import errno
import json
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.linux.cgroup_devices import DeviceRules
from sampan.linux.cgroup_limits import limits, weight_of_blkio, weight_of_shares
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


@pytest.mark.parametrize("path", ["/a/b", "/a/b/", "//a//b", "/./a/./b"])
def test_one_path_for_one_cgroup(path: str) -> None:
    assert Cgroup(path, Layout({}, "/c")).path == "/a/b"


def test_a_host_without_any_freezer() -> None:
    with pytest.raises(OSError, match="neither cgroup v2 nor"):
        Cgroup("/a", Layout({"memory": "/c"})).freeze()


@pytest.mark.parametrize("path", ["", "/", "//", "/.", "relative/x", "/a/../../b", "/..", "/a/\0"])
def test_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not absolute and plain"):
        Cgroup(path, Layout({}, "/c"))


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 39), (262144, 10000), (0, 1), (10**9, 10000)])
def test_weight_of_shares(shares: int, weight: int) -> None:
    assert weight_of_shares(shares) == weight


@pytest.mark.parametrize(("weight", "io"), [(10, 1), (1000, 10000), (500, 4950)])
def test_weight_of_blkio(weight: int, io: int) -> None:
    assert weight_of_blkio(weight) == io


class FakeKernel:
    """A host with these controllers in v1, these in v2, and files in the cgroup as they are now."""

    def __init__(self, v1: str = "", v2: str = "", **files: str) -> None:
        self.v1, self.v2, self.files = v1.split(), v2.split(), {name.replace("__", "."): text for name, text in files.items()}

    def prepare(self, controller: str) -> int:
        return 1 if controller in self.v1 else 2 if controller in self.v2 else 0

    def has_file(self, controller: str, file: str) -> bool:
        return file in self.files

    def read(self, controller: str, file: str) -> str:
        return self.files[file]


V1 = FakeKernel(v1="cpu cpuset memory pids io hugetlb net_cls net_prio rdma", memory__memsw__limit_in_bytes="")
V2 = FakeKernel(v2="cpu cpuset memory pids io hugetlb rdma", memory__swap__max="max", cpu__max="7000 100000\n")


def written(resources: dict[str, Any], kernel: FakeKernel) -> list[tuple[str, str]]:
    return [(each.file, each.value) for step in limits(resources, kernel) for each in step]


def test_limits_of_v1() -> None:
    resources = {
        "memory": {"limit": 64 * MIB, "swap": 128 * MIB, "reservation": 32 * MIB, "swappiness": 0, "disableOOMKiller": False},
        "cpu": {
            "shares": 512, "quota": 50000, "period": 100000, "burst": 0, "idle": 0, "realtimeRuntime": 5, "realtimePeriod": 10,
            "cpus": "0-1", "mems": "0",
        },
        "pids": {"limit": -1},
        "blockIO": {
            "weight": 500, "leafWeight": 20, "weightDevice": [{"major": 8, "minor": 0, "weight": 10, "leafWeight": 11}],
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
        },
        "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
        "network": {"classID": 0, "priorities": [{"name": "eth0", "priority": 5}]},
        "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "rxe3": {"hcaObjects": 0}},
    }  # fmt: skip
    assert written(resources, V1) == [
        ("memory.limit_in_bytes", str(64 * MIB)),
        ("memory.memsw.limit_in_bytes", str(128 * MIB)),
        ("memory.soft_limit_in_bytes", str(32 * MIB)),
        ("memory.swappiness", "0"),
        ("memory.oom_control", "0"),
        ("cpu.shares", "512"),
        ("cpu.idle", "0"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "50000"),
        ("cpu.cfs_burst_us", "0"),
        ("cpu.rt_period_us", "10"),
        ("cpu.rt_runtime_us", "5"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("pids.max", "max"),
        ("blkio.weight", "500"),
        ("blkio.weight_device", "8:0 10"),
        ("blkio.leaf_weight", "20"),
        ("blkio.leaf_weight_device", "8:0 11"),
        ("blkio.throttle.read_bps_device", "8:0 1000"),
        ("hugetlb.2MB.limit_in_bytes", "0"),
        ("net_cls.classid", "0"),
        ("net_prio.ifpriomap", "eth0 5"),
        ("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"),
        ("rdma.max", "rxe3 hca_object=0"),
    ]


def test_values_that_must_fit_each_other_are_one_step() -> None:
    memory = {"limit": 64 * MIB, "swap": 128 * MIB}
    cpu = {"shares": 512, "idle": 1, "quota": 50000, "period": 100000}
    steps = [[each.file for each in step] for step in limits({"memory": memory, "cpu": cpu}, V1) if step]
    assert steps == [
        ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"],
        ["cpu.shares", "cpu.idle"],
        ["cpu.cfs_period_us", "cpu.cfs_quota_us"],
    ]


def test_files_that_this_kernel_has() -> None:
    kernel = FakeKernel("io", "hugetlb", blkio__bfq__weight="", hugetlb__2MB__rsvd__max="")
    resources = {
        "blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
    }
    assert written(resources, kernel) == [
        ("blkio.bfq.weight", "500"), ("blkio.bfq.weight_device", "8:0 10"),
        ("hugetlb.2MB.max", "1"), ("hugetlb.2MB.rsvd.max", "1"),
    ]  # fmt: skip
    bfq = FakeKernel(v2="io", io__bfq__weight="")
    assert written({"blockIO": resources["blockIO"]}, bfq) == [
        ("io.bfq.weight", "default 500"),
        ("io.bfq.weight", "8:0 10"),
    ]


def test_limits_of_v2() -> None:
    resources = {
        "memory": {"limit": 64 * MIB, "swap": 128 * MIB, "reservation": 32 * MIB, "kernel": -1, "disableOOMKiller": False},
        "cpu": {"shares": 1024, "quota": -1, "period": 100000, "cpus": "0"},
        "pids": {"limit": 7},
        "blockIO": {"weight": 500, "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 10}]},
        "unified": {"memory.high": "1000", "io.max": "8:0 rbps=1\n8:16 wbps=2"},
    }
    assert written(resources, V2) == [
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
        ("io.max", "8:0 rbps=1"),
        ("io.max", "8:16 wbps=2"),
    ]


@pytest.mark.parametrize(
    ("cpu", "value"),
    [({"period": 50000}, "7000 50000"), ({"quota": 9000}, "9000"), ({"quota": -1}, "max"), ({"quota": 5, "period": 6}, "5 6")],
)
def test_what_an_update_of_v2_does_not_name_stays(cpu: dict[str, int], value: str) -> None:
    assert written({"cpu": cpu}, V2) == [("cpu.max", value)]


@pytest.mark.parametrize(
    ("memory", "writes"),
    [
        ({"limit": -1}, [("memory.swap.max", "max"), ("memory.max", "max")]),
        ({"limit": 10, "swap": 10}, [("memory.swap.max", "0"), ("memory.max", "10")]),
        ({"limit": 10, "swap": -1}, [("memory.swap.max", "max"), ("memory.max", "10")]),
        ({"limit": 10}, [("memory.max", "10")]),
        ({"swap": -1}, [("memory.swap.max", "max")]),
    ],
)
def test_swap_of_v2_is_swap_alone(memory: dict[str, int], writes: list[tuple[str, str]]) -> None:
    assert written({"memory": memory}, V2) == writes


def test_a_kernel_that_counts_no_swap() -> None:
    kernel = FakeKernel(v2="memory")
    assert written({"memory": {"limit": 10, "swap": 10}}, kernel) == [("memory.max", "10")]
    assert ("memory.swap.max", "5") in written({"memory": {"limit": 10, "swap": 15}}, kernel)  # which the kernel refuses
    assert written({"memory": {"limit": -1}}, FakeKernel(v1="memory")) == [("memory.limit_in_bytes", "-1")]


def test_no_limit_of_memory_is_none_of_swap_on_v1() -> None:
    assert written({"memory": {"limit": -1}}, V1) == [("memory.limit_in_bytes", "-1"), ("memory.memsw.limit_in_bytes", "-1")]


@pytest.mark.parametrize(
    ("resources", "kernel"),
    [
        ({"memory": {"swap": 10}}, V2),
        ({"memory": {"limit": 10, "swap": 5}}, V2),
        ({"memory": {"limit": 10, "swap": 5}}, V1),
        ({"memory": {"swappiness": 101}}, V1),
        ({"cpu": {"shares": 1}}, V1),
        ({"cpu": {"shares": 262145}}, V1),
        ({"rdma": {"mlx5_1": {}}}, V1),
        ({"unified": {"../../x": "1"}}, V2),
        ({"unified": {"memory.high/../../x": "1"}}, V2),
        ({"unified": {"memory": "1"}}, V2),
        ({"unified": {".memory": "1"}}, V2),
        ({"unified": {"cgroup.procs": "1"}}, V2),
    ],
)
def test_bad_values_are_refused(resources: dict[str, Any], kernel: FakeKernel) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        written(resources, kernel)


@pytest.mark.parametrize(
    ("resources", "kernel"),
    [
        ({"memory": {"disableOOMKiller": True}}, V2),
        ({"memory": {"swappiness": 0}}, V2),
        ({"memory": {"kernelTCP": 5}}, V2),
        ({"memory": {"kernel": 5}}, V1),
        ({"memory": {"useHierarchy": False}}, V1),
        ({"cpu": {"realtimeRuntime": 5}}, V2),
        ({"blockIO": {"leafWeight": 5}}, V2),
        ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 5}]}}, V2),
        ({"network": {"classID": 5}}, V2),
        ({"network": {"priorities": [{"name": "eth0", "priority": 5}]}}, V2),
        ({"unified": {"memory.high": "5"}}, V1),
        ({"unified": {"misc.max": "5"}}, V2),
        *(
            (resources, FakeKernel())
            for resources in (
                {"memory": {"limit": 5}}, {"cpu": {"shares": 5}}, {"cpu": {"cpus": "0"}}, {"pids": {"limit": 5}},
                {"blockIO": {"weight": 5}}, {"hugepageLimits": [{"pageSize": "2MB", "limit": 5}]},
                {"rdma": {"mlx5_1": {"hcaHandles": 3}}},
            )
        ),
    ],
)  # fmt: skip
def test_what_the_host_cannot_do_is_refused(resources: dict[str, Any], kernel: FakeKernel) -> None:
    with pytest.raises(OSError, match=r"\w") as caught:
        written(resources, kernel)
    assert caught.value.errno == errno.EOPNOTSUPP


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


NO_DEVICE = {"allow": False, "access": "rwm"}
ANY_DEVICE = {"allow": True, "access": "rwm"}


def device(allow: bool, kind: str, major: int | None, minor: int | None, access: str) -> dict[str, Any]:
    return {"allow": allow, "type": kind, "major": major, "minor": minor, "access": access}


def test_docker_devices_in_ebpf() -> None:
    rules = DeviceRules.of_spec(
        [NO_DEVICE, device(True, "c", 10, 3, "rwm"), device(True, "c", 10, None, "r"), device(False, "c", 10, None, "r")]
    )
    assert permits(rules, "c", 10, 3, "rw")
    assert not permits(rules, "c", 10, 4, "r")
    assert permits(rules, "c", 136, 77, "rw")
    assert permits(rules, "c", 1, 3, "rw")
    assert not permits(rules, "b", 8, 0, "r")
    assert permits(rules, "b", 8, 0, "m")


def test_nothing_is_allowed_before_a_list_but_what_every_container_has() -> None:
    for rules in (DeviceRules.of_spec([]), DeviceRules.of_spec([device(True, "c", 10, 229, "rw")])):
        assert permits(rules, "c", 1, 9, "rwm")
        assert not permits(rules, "c", 1, 1, "r")
        assert not permits(rules, "b", 8, 0, "r")
    assert permits(rules, "c", 10, 229, "rw")


def test_exceptions_from_all_devices_in_ebpf() -> None:
    rules = DeviceRules.of_spec([ANY_DEVICE, device(False, "b", 8, None, "w")])
    assert permits(rules, "b", 8, 1, "r")
    assert not permits(rules, "b", 8, 1, "rw")
    assert permits(rules, "b", 9, 1, "rw")


@pytest.mark.parametrize("wide", [(8, None), (None, 1), (None, None)])
def test_a_hole_in_a_wildcard_is_refused(wide: tuple[int | None, int | None]) -> None:
    with pytest.raises(ValueError, match="hole"):
        DeviceRules.of_spec([NO_DEVICE, device(True, "b", *wide, "rw"), device(False, "b", 8, 1, "w")])
    with pytest.raises(ValueError, match="hole"):
        DeviceRules.of_spec([ANY_DEVICE, device(False, "b", *wide, "rw"), device(True, "b", 8, 1, "w")])
    DeviceRules.of_spec([NO_DEVICE, device(True, "b", *wide, "r"), device(False, "b", 8, 1, "w")])


def test_v1_changes_only_what_differs() -> None:
    before = DeviceRules.of_v1("c 1:3 rwm\nc 136:* rw\nb *:* m\n")
    after = DeviceRules(False, {(2, 1, 3): 7, (2, 136, -1): 2, (1, 8, 0): 6})
    assert list(after.changes(before)) == [(True, "b 8:0 rw"), (False, "c 136:* w"), (False, "b *:* m")]
    assert list(before.changes(before)) == []


def test_v1_starts_anew_where_it_does_not_tell_its_rules() -> None:
    everything = DeviceRules.of_v1("a *:* rwm\n")
    assert list(DeviceRules(False, {(2, 1, 3): 6}).changes(everything)) == [(False, "a"), (True, "c 1:3 rw")]
    assert list(DeviceRules(True, {(2, 1, 3): 6}).changes(everything)) == [(True, "a"), (False, "c 1:3 rw")]
    assert list(DeviceRules(True, {}).changes(DeviceRules.of_v1("c 1:3 rwm\n"))) == [(True, "a")]


ACCESSES = ["r", "w", "m", "rw", "rm", "wm", "rwm"]
ENTRIES = st.builds(
    device, st.booleans(), st.sampled_from("abc"), st.sampled_from([None, 1, 8]), st.sampled_from([None, 0, 5]), st.sampled_from(ACCESSES)
)
USES = [(kind, major, minor, access) for kind in "bc" for major in (1, 8, 9) for minor in (0, 5, 6) for access in ACCESSES]


def v1_permits(rules: DeviceRules, kind: str, major: int, minor: int, access: str) -> bool:
    """As `security/device_cgroup.c` decides: one exception must allow it whole, or may refuse a part of it."""
    bits = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access)
    matching = [
        allowed
        for (its_kind, its_major, its_minor), allowed in rules.exceptions.items()
        if its_kind == {"b": 1, "c": 2}[kind] and its_major in (-1, major) and its_minor in (-1, minor)
    ]
    if rules.default_allow:
        return not any(each & bits for each in matching)
    return any(not bits & ~each for each in matching)


@given(st.lists(ENTRIES, max_size=6))
@settings(max_examples=40, deadline=None)
def test_ebpf_decides_as_v1(entries: list[dict[str, Any]]) -> None:
    try:
        rules = DeviceRules.of_spec(entries)
    except ValueError:
        return
    for use in USES:
        assert permits(rules, *use) == v1_permits(rules, *use), (rules, use)


@given(st.lists(ENTRIES, max_size=4), st.lists(ENTRIES, max_size=4))
@settings(max_examples=40, deadline=None)
def test_v1_comes_to_what_is_wanted_by_its_changes(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    """Applying the changes to the old rules as the kernel would gives the new ones; what both allow is allowed at each step."""
    try:
        old, new = DeviceRules.of_spec(before), DeviceRules.of_spec(after)
    except ValueError:
        return
    default, now = old.default_allow, dict(old.exceptions)
    stays = [use for use in USES if v1_permits(old, *use) and v1_permits(new, *use)]
    for allow, line in new.changes(old):
        if line == "a":
            default, now = allow, {}
            continue
        kind, numbers, access = line.split(" ")
        major, minor = (-1 if number == "*" else int(number) for number in numbers.split(":"))
        key, bits = ({"b": 1, "c": 2}[kind], major, minor), sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access)
        now[key] = now.get(key, 0) | bits if allow != default else now.get(key, 0) & ~bits
        if not (old.default_allow or new.default_allow):
            assert all(v1_permits(DeviceRules(default, now), *use) for use in stays)
    assert (default, {key: bits for key, bits in now.items() if bits}) == (new.default_allow, new.exceptions)


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


def test_stats_from_both_versions_of_one_host(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "v1/x/pids.current": "7\n",
            "v2/x/memory.current": "4096\n",
            "v2/x/cpu.stat": "usage_usec 50\n",
            "v2/x/pids.current": "nothing to read here",
        },
    )
    stats = read_stats(Layout({"pids": str(tmp_path / "v1")}, str(tmp_path / "v2"), frozenset({"memory"})), "/x")
    assert (stats.version, stats.memory.usage, stats.cpu.total_ns, stats.pids.current) == (2, 4096, 50_000, 7)


def test_stats_of_a_cgroup_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_stats(Layout({}, str(tmp_path)), "/x")


def test_watch_of_a_cgroup_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        OomWatch(Cgroup("/x", Layout({"memory": str(tmp_path)})))
