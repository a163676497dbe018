"""The runtime suite: control groups, beyond the limits that everybody sets."""

from __future__ import annotations

import select
import signal
from pathlib import Path

import pytest

from sampan.api.errors import SampanError
from sampan.api.runtime import RuntimeCapability, Spec
from sampan.linux.cgroup_oom import OomWatch
from sampan.linux.cgroups import Cgroup, detect
from sampan.testing.runtime_ground import KernelLimits, MiB, Workshop, shell
from sampan.testing.selection import needs

_OWN = "/sys/fs/cgroup" if detect().version == "v2" else "/sys/fs/cgroup/memory"
"""Where a container sees its cgroup of the memory controller."""


class CgroupCases:
    """What is asked of the container's cgroup, what the container does in it, and what others see of it meanwhile."""

    def test_memory_that_runs_out_is_heard_of(self, workshop: Workshop) -> None:
        """A watch of the cgroup of the spec tells of a kill in a container that lives on, and of the cgroup's end."""
        spec = workshop.spec("while read line; do tail /dev/zero; echo $?; done")
        spec["linux"]["resources"]["memory"] = {"limit": 32 * MiB, "swap": 32 * MiB}
        container = workshop.idle(spec)
        watch = OomWatch(Cgroup(spec["linux"]["cgroupsPath"]))
        try:
            poll = select.poll()
            poll.register(watch.fileno(), watch.events)
            assert not poll.poll(0)
            assert watch.read() is False
            container.main.write(b"\n")
            told = False
            while not told:
                assert poll.poll(30_000)
                told = watch.read() is True
            container.main.read_until(b"137")
            watch.read()
            assert not poll.poll(0)
            assert container.oom_killed() is True
            container.signal(signal.SIGKILL)
            container.delete()
            assert poll.poll(30_000)
            assert watch.read() is None
        finally:
            watch.close()

    @needs(RuntimeCapability.UPDATE)
    def test_memory_goes_up_and_down(self, workshop: Workshop) -> None:
        """Limits of memory, and of memory and swap, change together in whatever order the kernel wants."""
        spec = workshop.spec("sleep 1000")
        spec["linux"]["resources"]["memory"] = {"limit": 64 * MiB, "swap": 64 * MiB}
        container = workshop.idle(spec)
        limits = KernelLimits(container.main.pid)
        for limit, swap in ((128, 256), (32, 32), (96, 128)):
            container.update({"memory": {"limit": limit * MiB, "swap": swap * MiB}})
            assert limits.memory() == limit * MiB

    @needs(RuntimeCapability.UPDATE)
    def test_memory_in_use_is_not_taken_away(self, workshop: Workshop) -> None:
        """A limit below what is in use is refused, on v2 where `checkBeforeUpdate` asks for that; nobody is killed."""
        spec = workshop.spec("head -c 30000000 /dev/zero >/dev/shm/file; echo full; sleep 1000")
        spec["linux"]["resources"]["memory"] = {"limit": 64 * MiB, "swap": 64 * MiB}
        container = workshop.idle(spec)
        container.main.read_until(b"full")
        with pytest.raises(SampanError):
            container.update({"memory": {"limit": 8 * MiB, "swap": 8 * MiB, "checkBeforeUpdate": True}})
        assert KernelLimits(container.main.pid).memory() == 64 * MiB
        assert container.exec(shell("ls -s /dev/shm/file")).code == 0

    def test_cgroups_below_are_the_containers_own(self, workshop: Workshop) -> None:
        """A container that may write to its cgroups makes more in them: they count as its, take execs beside them, and go."""
        make = f"mkdir -p {_OWN}/a/b {_OWN}/c && echo $$ >{_OWN}/a/b/cgroup.procs && echo there; sleep 1000 & wait"
        container = workshop.idle(_writable(workshop.spec(make)))
        container.main.read_until(b"there")
        assert container.main.pid in container.processes()
        assert container.exec(shell(f"cat {_OWN}/a/b/cgroup.procs")).text.split()[0] == "1"
        path = Path(f"{detect().root_of('memory')}{container.spec['linux']['cgroupsPath']}")
        assert (path / "a/b").is_dir()
        container.signal(signal.SIGKILL, everyone=True)
        container.delete()
        assert not path.exists()

    @pytest.mark.parametrize("rules", [{}, {"devices": None}, {"devices": []}], ids=["missing", "null", "empty"])
    def test_devices_without_a_list(self, workshop: Workshop, rules: Spec) -> None:
        """What every container may use can be used, a node that it has besides cannot."""
        spec = workshop.spec("head -c4 /dev/zero | wc -c; true > /dev/kmsg")
        spec["linux"]["resources"] = rules
        spec["linux"]["devices"] = [{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666}]
        output = workshop.container(spec).run()
        assert output.text == "4"
        assert b"not permitted" in output.stderr

    @pytest.mark.parametrize(
        "resources",
        [
            {"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]},
            {"unified": {"memory.max/../../cgroup.procs": "1"}},
            {"unified": {"nothing.max": "1"}},
            {"cpu": {"cpus": "4000"}},
            {"memory": {"limit": 64 * MiB, "swap": 32 * MiB}},
        ],
        ids=lambda resources: next(iter(resources)),
    )
    def test_limits_that_cannot_be_are_refused(self, workshop: Workshop, resources: Spec) -> None:
        """What the host lacks, and what contradicts itself, is not left out in silence."""
        spec = workshop.spec("true")
        spec["linux"]["resources"] |= resources
        with pytest.raises(SampanError):
            workshop.container(spec).create()


def _writable(spec: Spec) -> Spec:
    for mount in spec["mounts"]:
        if mount["destination"] == "/sys/fs/cgroup":
            mount["options"] = [option for option in mount["options"] if option != "ro"]
    return spec
