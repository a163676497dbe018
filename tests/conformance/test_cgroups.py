"""`sampan.linux.cgroups` on the kernel that runs this, whatever its hierarchies: limits in force, trees that a hostile container
made, changes without a gap. `make test-vm` runs it on pure cgroup v2 as well."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from sampan.linux.cgroup_devices import DeviceRules, attach_v2, write_v1
from sampan.linux.cgroup_files import write
from sampan.linux.cgroup_trees import members, remove_tree
from sampan.linux.cgroups import Cgroup, Layout, detect

MIB = 1 << 20
_numbers = count()
layout = detect()
on_v2 = layout.version == "v2"


@pytest.fixture
def parent() -> Iterator[str]:
    """A cgroup path of the test's own; afterwards it is gone, with all below it."""
    path = f"/sampan-test-{os.getpid()}-{next(_numbers)}"
    yield path
    for root in layout.roots:
        remove_tree(root + path, time.monotonic() + 10)


@pytest.fixture
def cgroup(parent: str) -> Iterator[Cgroup]:
    """A new cgroup; afterwards its processes are killed and it is removed by its own `remove`."""
    made = Cgroup(parent + "/c")
    made.create()
    yield made
    made.kill()
    made.remove()
    assert not made.exists()


@contextlib.contextmanager
def running(cgroup: Cgroup, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the cgroup from its first instruction on."""
    script = "read line; exec " + " ".join(command)
    with subprocess.Popen(["/bin/sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        try:
            cgroup.add(process.pid)
            process.stdin.write(b"\n")
            process.stdin.flush()
            yield process
        finally:
            process.kill()


def value(cgroup: Cgroup, controller: str, v1: str, v2: str) -> str:
    name = v1 if layout.version_of(controller) == 1 else v2
    return Path(f"{layout.root_of(controller)}{cgroup.path}/{name}").read_text().strip()


def memory_limit(cgroup: Cgroup) -> str:
    return value(cgroup, "memory", "memory.limit_in_bytes", "memory.max")


def test_a_process_of_an_empty_cgroup_can_run_on_every_cpu(cgroup: Cgroup) -> None:
    """A new v1 cpuset takes no process before it has cpus; who makes the parents sees to that."""
    with running(cgroup, "cat") as process:
        assert os.sched_getaffinity(process.pid) == os.sched_getaffinity(0)
        assert cgroup.procs() == (process.pid,)


def test_a_parent_that_somebody_else_made_gives_its_cpus_too(parent: str) -> None:
    for root in layout.roots:
        os.mkdir(root + parent)
    cgroup = Cgroup(parent + "/c")
    cgroup.create()
    with running(cgroup, "cat") as process:
        assert os.sched_getaffinity(process.pid) == os.sched_getaffinity(0)


def test_memory_limits_go_up_and_down_in_any_order(cgroup: Cgroup) -> None:
    for limit, swap in ((64, 64), (128, 256), (32, 32), (64, 128), (64, 64)):
        cgroup.apply({"memory": {"limit": limit * MIB, "swap": swap * MIB}})
        assert memory_limit(cgroup) == str(limit * MIB)
        expected = {1: str(swap * MIB), 2: str((swap - limit) * MIB)}[layout.version_of("memory")]
        assert value(cgroup, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max") == expected
    cgroup.apply({"memory": {"limit": -1}})
    assert int(memory_limit(cgroup).replace("max", str(2**63))) > 2**60
    assert cgroup.stats().memory.limit is None


def test_limits_of_time_go_up_and_down_in_any_order(cgroup: Cgroup) -> None:
    below = Cgroup(cgroup.path + "/below")
    below.create()
    for quota, period in ((50_000, 100_000), (5_000, 10_000), (900_000, 1_000_000)):
        # The child may have no more than the parent at any moment.
        cgroup.apply({"cpu": {"quota": quota, "period": period}})
        below.apply({"cpu": {"quota": quota, "period": period, "burst": 0}})
        assert value(below, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == str(quota)
    below.apply({"cpu": {"quota": 400_000}})
    below.apply({"cpu": {"period": 500_000}})
    assert value(below, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "400000"


def test_an_idle_cgroup_gets_shares_again(cgroup: Cgroup) -> None:
    cgroup.apply({"cpu": {"idle": 1}})
    assert value(cgroup, "cpu", "cpu.idle", "cpu.idle") == "1"
    cgroup.apply({"cpu": {"shares": 512, "idle": 0}})
    assert value(cgroup, "cpu", "cpu.shares", "cpu.weight") == {1: "512", 2: "20"}[layout.version_of("cpu")]


def test_real_time_needs_a_budget_above(cgroup: Cgroup) -> None:
    with pytest.raises(OSError, match="real-time budget"):
        cgroup.apply({"cpu": {"realtimePeriod": 1_000_000, "realtimeRuntime": 10_000}})


def test_a_limit_below_what_is_in_use_is_refused(cgroup: Cgroup) -> None:
    cgroup.apply({"memory": {"limit": 64 * MIB, "swap": 64 * MIB}})
    with running(cgroup, "sh -c 'x=$(head -c 20000000 /dev/zero | tr \"\\\\0\" x); echo; cat'") as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(OSError, match="in use") as caught:
            cgroup.apply({"memory": {"limit": 8 * MIB, "swap": 8 * MIB, "checkBeforeUpdate": True}})
        assert caught.value.errno == errno.EBUSY
        assert memory_limit(cgroup) == str(64 * MIB)
        assert process.poll() is None


def test_a_controller_that_only_v2_has_is_enabled_when_asked_for(cgroup: Cgroup) -> None:
    """hugetlb on hybrid hosts; on pure v2 it is there from the start."""
    if layout.version_of("hugetlb") != 2:
        with pytest.raises(OSError, match="no cgroup v2 controller hugetlb"):
            cgroup.apply({"unified": {"hugetlb.2MB.max": "0"}})
        return
    cgroup.apply({"hugepageLimits": [{"pageSize": "2MB", "limit": 2 * MIB}]})
    assert value(cgroup, "hugetlb", "", "hugetlb.2MB.max") == str(2 * MIB)
    assert value(cgroup, "hugetlb", "", "hugetlb.2MB.rsvd.max") == str(2 * MIB)
    cgroup.apply({"unified": {"hugetlb.2MB.max": "0"}})
    assert value(cgroup, "hugetlb", "", "hugetlb.2MB.max") == "0"


def test_a_file_that_the_kernel_has_not_is_told_by_name(cgroup: Cgroup) -> None:
    if layout.version_of("hugetlb") == 0:
        pytest.fail("this test needs hugetlb")
    with pytest.raises(OSError, match=r"hugetlb\.3MB\.\w+: this kernel has no such file") as caught:
        cgroup.apply({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]})
    assert caught.value.errno == errno.EOPNOTSUPP


if on_v2:

    def test_processes_in_the_parent_keep_controllers_away(parent: str) -> None:
        """v2's rule about processes in the middle: a container can be there, only not be limited, and the reason is told."""
        above, cgroup = Cgroup(parent), Cgroup(parent + "/c")
        above.create()
        with running(above, "cat"):
            cgroup.create()
            with running(cgroup, "cat") as process:
                assert cgroup.procs() == (process.pid,)
                for limit in ({"memory": {"limit": 64 * MIB}}, {"pids": {"limit": 9}}, {"cpu": {"shares": 512}}):
                    with pytest.raises(OSError, match="has processes itself; move them") as caught:
                        cgroup.apply(limit)
                    assert caught.value.errno == errno.EBUSY
                assert Path(cgroup.directory(), "cgroup.type").read_text() == "domain\n"
        above.kill()
        deadline = time.monotonic() + 10
        while above.procs() and time.monotonic() < deadline:
            time.sleep(0.001)
        cgroup.apply({"memory": {"limit": 64 * MIB}})
        assert memory_limit(cgroup) == str(64 * MIB)


def test_a_cgroup_with_processes_or_frozen_is_not_taken(cgroup: Cgroup) -> None:
    Cgroup(cgroup.path).create()
    with running(cgroup, "cat"), pytest.raises(OSError, match="has processes"):
        Cgroup(cgroup.path).create()
    cgroup.kill()
    deadline = time.monotonic() + 10
    while cgroup.procs() and time.monotonic() < deadline:
        time.sleep(0.001)
    cgroup.freeze()
    with pytest.raises(OSError, match="frozen"):
        Cgroup(cgroup.path).create()
    cgroup.freeze(False)


# Devices


def in_cgroup(cgroup: Cgroup, work: str) -> str:
    """What `work`, a line of shell, prints in the cgroup."""
    with running(cgroup, f"sh -c '{work}'") as process:
        assert process.stdout is not None
        return process.stdout.read().decode().strip()


def apply_devices(cgroup: Cgroup, rules: DeviceRules) -> None:
    if "devices" in layout.v1:
        write_v1(cgroup.directory("devices"), rules)
    else:
        attach_v2(cgroup.directory(), rules)


def test_devices_are_what_the_last_list_says(cgroup: Cgroup) -> None:
    kmsg = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
    look = "head -c0 /dev/kmsg && echo kmsg; head -c0 /dev/null && echo null; head -c0 /dev/console && echo console"
    for devices, expected in (
        ([], "null"), ([kmsg], "kmsg null"), ([], "null"), ([{"allow": True, "access": "rwm"}], "kmsg null console"), ([kmsg], "kmsg null"),
    ):  # fmt: skip
        cgroup.apply({"devices": devices})
        assert in_cgroup(cgroup, look + "; exit 0").split() == expected.split()


def test_devices_that_stay_allowed_are_so_all_the_time(cgroup: Cgroup) -> None:
    """A process that opens /dev/null and /dev/zero without a pause never fails, whatever is replaced meanwhile."""
    one = DeviceRules.of_spec([{"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}])
    other = DeviceRules.of_spec([{"allow": True, "type": "b", "major": 8, "access": "rw"}])
    apply_devices(cgroup, one)
    with running(cgroup, "sh -c 'while : </dev/null && : >/dev/zero; do :; done'") as process:
        for _ in range(100):
            apply_devices(cgroup, other)
            apply_devices(cgroup, one)
        assert process.poll() is None


# What a container that may write to its own cgroups can make of them


def deep_tree(top: str, depth: int) -> None:
    """Cgroups in one another, until a path to the last is much too long for the kernel."""
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    fd = os.open("cgroup.procs", os.O_WRONLY, dir_fd=here)
    with subprocess.Popen(["sleep", "1000"]) as process:
        os.write(fd, str(process.pid).encode())
        os.close(fd)
        os.close(here)
        found = tuple(members(top))
        process.kill()
    assert found == (process.pid,)


def test_a_tree_deeper_than_paths_and_descriptors(cgroup: Cgroup) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 16, hard))
    try:
        for root in layout.roots[-2:]:
            deep_tree(root + cgroup.path, 60)
        cgroup.remove()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not cgroup.exists()


def test_a_wide_tree_is_removed(cgroup: Cgroup) -> None:
    for root in layout.roots[-2:]:
        for number in range(100):
            os.mkdir(f"{root}{cgroup.path}/{number}")
    cgroup.remove()
    assert not cgroup.exists()


if layout.unified:

    def test_threaded_cgroups_below(cgroup: Cgroup) -> None:
        """`cgroup.procs` of a threaded cgroup can't be read; its processes are counted all the same."""
        threaded = Path(cgroup.directory()) / "threaded"
        threaded.mkdir()
        with running(cgroup, "cat") as process:
            write(f"{threaded}/cgroup.type", "threaded")
            write(f"{threaded}/cgroup.threads", str(process.pid))
            assert cgroup.procs() == (process.pid,)
            assert cgroup.has(process.pid)
            cgroup.kill()
            process.wait()
        cgroup.remove()
        assert not cgroup.exists()


if layout.unified:

    def test_frozen_cgroups_below_are_killed(cgroup: Cgroup) -> None:
        below = Path(cgroup.directory()) / "below"
        below.mkdir()
        with running(cgroup, "cat") as process:
            write(f"{below}/cgroup.procs", str(process.pid))
            write(f"{below}/cgroup.freeze", "1")
            cgroup.freeze()
            cgroup.kill()
            assert process.wait() == -signal.SIGKILL

    def test_a_delegated_cgroup_is_its_users_to_divide(parent: str) -> None:
        """The user makes cgroups below and moves processes there, but its own limits stay as they are: cgroup-v2.rst, "Delegation"."""
        cgroup = Cgroup(parent + "/c", Layout({}, layout.unified))
        cgroup.create()
        cgroup.delegate(1000)
        script = "mkdir $0/below && echo $$ >$0/below/cgroup.procs && echo moved; (echo 1 >$0/cgroup.freeze) 2>/dev/null || echo refused"
        with running(cgroup, "setpriv", "--reuid", "1000", "--clear-groups", "sh", "-c", f"'{script}'", cgroup.directory()) as process:
            assert process.communicate()[0] == b"moved\nrefused\n"
        cgroup.remove()


@pytest.mark.parametrize("seen", [layout, type(layout)(layout.v1)] if "freezer" in layout.v1 else [layout])
def test_freezing_and_killing_at_once(parent: str, seen: Layout) -> None:
    """Whoever is first: what is killed dies, and whoever freezes gets an answer, of an empty cgroup too."""
    cgroup = Cgroup(parent + "/c", seen)
    cgroup.create()
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(running(cgroup, "cat")) for _ in range(10)]
        failures: list[BaseException] = []

        def freeze_and_thaw() -> None:
            try:
                for _ in range(40):
                    cgroup.freeze()
                    cgroup.freeze(False)
            except BaseException as error:
                failures.append(error)

        def reap() -> None:
            for process in processes:
                process.wait()

        threads = [threading.Thread(target=freeze_and_thaw), threading.Thread(target=reap)]
        for thread in threads:
            thread.start()
        cgroup.kill()
        for thread in threads:
            thread.join()
        assert failures == []
        assert {process.returncode for process in processes} == {-signal.SIGKILL}
    cgroup.remove()


if "freezer" in layout.v1:

    @pytest.mark.parametrize("seen", [Layout(layout.v1), layout], ids=["v1 alone", "as it is"])
    def test_processes_that_v1_has_frozen_are_killed(parent: str, seen: Layout) -> None:
        """They die only when they are let go, those in cgroups below too, whatever else the host has beside v1."""
        cgroup = Cgroup(parent + "/c", seen)
        cgroup.create()
        below = Path(cgroup.directory("freezer")) / "below"
        below.mkdir()
        with running(cgroup, "cat") as process:
            write(f"{below}/cgroup.procs", str(process.pid))
            write(f"{below}/freezer.state", "FROZEN")
            Cgroup(cgroup.path, Layout(layout.v1)).freeze()
            reaper = threading.Thread(target=process.wait)
            reaper.start()
            cgroup.kill()
            reaper.join()
            assert process.returncode == -signal.SIGKILL
        cgroup.remove()


if layout.controllers:

    def test_one_more_process_goes_where_v2_takes_it(cgroup: Cgroup) -> None:
        """Into the container's cgroup; where that has given controllers to cgroups below, into the first process's."""
        controller = "memory" if on_v2 else min(layout.controllers)
        cgroup.apply({"unified": {f"{controller}.max" if on_v2 else "hugetlb.2MB.max": "max"}})
        top = cgroup.directory()
        below = Path(top) / "below"
        below.mkdir()
        with running(cgroup, "cat") as first, running(cgroup, "cat") as another:
            assert directory_beside(cgroup, first.pid) == top
            write(f"{below}/cgroup.procs", str(first.pid))
            assert directory_beside(cgroup, first.pid) == top
            write(f"{below}/cgroup.procs", str(another.pid))
            write(f"{top}/cgroup.subtree_control", f"+{controller}")
            with pytest.raises(OSError, match="busy"):
                cgroup.add(another.pid)
            assert directory_beside(cgroup, first.pid) == str(below)


def directory_beside(cgroup: Cgroup, pid: int) -> str:
    fd = cgroup.open_beside(pid)
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
