"""The runtime suite: control groups, beyond the limits that everybody sets."""

from __future__ import annotations

import select
import signal

from sampan.linux.cgroup_oom import OomWatch
from sampan.linux.cgroups import Cgroup
from sampan.testing.runtime_ground import MiB, Workshop


class CgroupCases:
    """What others do with the container's cgroup while it lives."""

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
