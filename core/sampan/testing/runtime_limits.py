"""The runtime suite: limits, and readings of what is used."""

from __future__ import annotations

import signal

from sampan.api.runtime import RuntimeCapability
from sampan.testing.runtime_ground import KernelLimits, MiB, Workshop
from sampan.testing.selection import needs


class LimitCases:
    """What the spec limits, the kernel limits."""

    def test_limits_in_the_kernel(self, workshop: Workshop) -> None:
        """The kernel's own files have the spec's numbers."""
        spec = workshop.spec("sleep 1000")
        spec["linux"]["resources"] |= {
            "memory": {"limit": 64 * MiB, "swap": 64 * MiB, "reservation": 32 * MiB},
            "cpu": {"quota": 40_000, "period": 80_000, "shares": 512, "cpus": "0"},
            "pids": {"limit": 32},
        }
        container = workshop.idle(spec)
        limits = KernelLimits(container.main.pid)
        assert limits.memory() == 64 * MiB
        assert limits.memory_and_swap() in (64 * MiB, None)
        assert limits.reservation() == 32 * MiB
        assert limits.cpu() == (40_000, 80_000)
        assert 0 < limits.weight() < 1
        assert limits.pids() == 32
        assert limits.cpus() == "0"

    def test_pids_limit(self, workshop: Workshop) -> None:
        """Forks beyond the limit fail."""
        spec = workshop.spec("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 & done; echo all")
        spec["linux"]["resources"]["pids"] = {"limit": 6}
        output = workshop.container(spec).run()
        assert b"all" not in output.stdout
        assert b"fork" in output.stderr

    def test_out_of_memory(self, workshop: Workshop) -> None:
        """The kernel kills what takes too much, and the driver can tell that it was that."""
        spec = workshop.spec("exec tail /dev/zero")
        spec["linux"]["resources"]["memory"] = {"limit": 32 * MiB, "swap": 32 * MiB}
        container = workshop.container(spec)
        assert container.run().code == 137
        assert container.oom_killed() is True

    def test_an_ordinary_kill_is_not_out_of_memory(self, workshop: Workshop) -> None:
        """SIGKILL alone is not mistaken for it."""
        container = workshop.idle()
        container.signal(signal.SIGKILL)
        assert container.main.wait() == 137
        assert container.oom_killed() is False

    @needs(RuntimeCapability.UPDATE)
    def test_update(self, workshop: Workshop) -> None:
        """New limits are in force, those not named stay."""
        spec = workshop.spec("sleep 1000")
        spec["linux"]["resources"] |= {"memory": {"limit": 64 * MiB, "swap": 64 * MiB}, "pids": {"limit": 32}}
        container = workshop.idle(spec)
        limits = KernelLimits(container.main.pid)
        container.update({"memory": {"limit": 96 * MiB, "swap": 128 * MiB}})
        assert (limits.memory(), limits.pids()) == (96 * MiB, 32)
        assert limits.memory_and_swap() in (128 * MiB, None)
        container.update({"cpu": {"quota": 20_000, "period": 50_000}, "pids": {"limit": 48}})
        assert (limits.memory(), limits.cpu(), limits.pids()) == (96 * MiB, (20_000, 50_000), 48)

    def test_stats(self, workshop: Workshop) -> None:
        """Readings are the kernel's: time grows with work, memory and processes are counted, the limit is
        the limit."""
        spec = workshop.spec(
            "sleep 1000 & while read line; do i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; echo; done"
        )
        spec["linux"]["resources"]["memory"] = {"limit": 64 * MiB}
        container = workshop.idle(spec)
        before = container.stats()
        container.main.write(b"\n")
        container.main.read_until(b"\n")
        after = container.stats()
        assert after.cpu.total_ns > before.cpu.total_ns > 0
        assert 0 < after.memory.usage < 64 * MiB
        assert after.memory.limit == 64 * MiB
        assert after.memory.stat
        assert after.pids.current == 2
