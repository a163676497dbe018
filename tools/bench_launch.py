"""`make bench-launch`: what zygote, shim and client add to a start, an exec and an exit, and what an idle shim holds.

The times are those of `sampan.launch.client` with the native runtime, from the call to its answer, without a daemon.
The memory is that of the shims of idle containers behind a real daemon.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import secrets
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from ground.daemon import Daemon, new_daemon
from sampan.api.runtime import Mount
from sampan.engine.seccomp_profile import default_seccomp
from sampan.launch.client import Shim, Zygote
from sampan.launch.protocol import ClassRef, ExecConfig, Namespaces, ShimConfig
from sampan.linux import cgroups
from sampan.linux.namespaces import new_netns
from sampan.testing.rootfs import build_rootfs
from sampan.testing.spec import DEFAULT_CAPABILITIES, container_spec, process_spec

RUNTIME = ClassRef("sampan_runtime_native.driver", "NativeRuntime")
LOG = ClassRef("sampan_log_json_file.driver", "JsonFile")


class Times:
    """Milliseconds by phase, in order of their first appearance."""

    def __init__(self) -> None:
        self.of: dict[str, list[float]] = defaultdict(list)

    @contextlib.contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Time the body."""
        start = time.perf_counter()
        yield
        self.of[phase].append((time.perf_counter() - start) * 1e3)

    def report(self) -> None:
        """Print minima and medians."""
        print(f"{'ms':34}{'min':>9}{'median':>9}")
        for phase, values in self.of.items():
            print(f"{phase:34}{min(values):>9.2f}{statistics.median(values):>9.2f}")


class Bench:
    """Containers of one busybox tree, each run once and removed."""

    def __init__(self, directory: Path, zygote: Zygote, times: Times) -> None:
        self._directory, self._zygote, self._times = directory, zygote, times
        self._tree = build_rootfs(directory / "tree")
        self._mark = f"sampan-bench-{secrets.token_hex(3)}"
        self._netns = new_netns()

    def remove_cgroups(self) -> None:
        """Remove the parent of all containers' cgroups."""
        for root in cgroups.detect().roots:
            with contextlib.suppress(FileNotFoundError):
                Path(f"{root}/{self._mark}").rmdir()

    @contextlib.asynccontextmanager
    async def container(self, *args: str, phase: str = "") -> AsyncIterator[Shim]:
        """Give a launched container that reads an open stdin; afterwards it is deleted. Times go under `phase`."""
        base = Path(tempfile.mkdtemp(dir=self._directory))
        (base / "state").mkdir()
        spec = container_spec(args, cgroup=f"/{self._mark}/{base.name}")
        spec["linux"]["seccomp"] = default_seccomp(DEFAULT_CAPABILITIES)
        (base / "config.json").write_text(json.dumps(spec))
        config = ShimConfig(
            base.name, str(base), str(base), f"{base}/state", RUNTIME, log=LOG, log_directory=str(base), open_stdin=True,
            rootfs=(Mount("bind", str(self._tree), ("rbind",)),), cache_dir=f"{self._directory}/cache",
        )  # fmt: skip
        with self._times.measure(f"{phase}spawn"):
            shim = await self._zygote.spawn(config, Namespaces(self._netns))
        with self._times.measure(f"{phase}launch"):
            launched = await shim.launch()
        for span in launched.spans:
            self._times.of[f"{phase}launch: {span.phase}"].append((span.end_ns - span.start_ns) / 1e6)
        yield shim
        with self._times.measure(f"{phase}delete"):
            await shim.delete()

    async def run(self) -> None:
        """Run a program to its end: at the end of its input, so that we know when."""
        async with self.container("cat") as shim:
            waiting = asyncio.ensure_future(shim.wait())
            await shim.state()  # so the shim has got the request
            with self._times.measure("end of input to exit told"):
                await shim.close_stdin()
                record = await waiting
            if record.exit_code:
                raise SystemExit(f"cat ended with {record}")

    async def execs(self, rounds: int) -> None:
        """Run `true` again and again in one container."""
        async with self.container("cat", phase="first ") as shim:
            for number in range(rounds):
                config = ExecConfig(str(number), process_spec(["true"]))
                with self._times.measure("exec, started"):
                    await shim.exec(config)
                with self._times.measure("exec, from there to exit told"):
                    await shim.wait_exec(config.id)
            await shim.close_stdin()
            await shim.wait()


async def measure_times(rounds: int) -> None:
    """Print how long the operations take."""
    times = Times()
    zygote = await Zygote.start([RUNTIME.module, LOG.module], LOG)
    try:
        with tempfile.TemporaryDirectory(prefix="sampan-bench-") as directory:
            bench = Bench(Path(directory), zygote, times)
            cgroups.favor_moves(f"{directory}/name=sampan")  # as a daemon does
            try:
                await bench.execs(rounds)
                for phase in [phase for phase in times.of if phase.startswith("first ")]:
                    del times.of[phase]  # of a zygote that was not warm
                for _ in range(rounds):
                    await bench.run()
            finally:
                bench.remove_cgroups()
                cgroups.leave_moves(f"{directory}/name=sampan")
    finally:
        await zygote.close()
    times.report()


def measure_memory(containers: int) -> None:
    """Print what the shims of idle containers hold."""
    with new_daemon() as daemon:
        daemon.start()
        daemon.api("POST", "/sampan/images/bootstrap")
        for number in range(containers):
            daemon.docker("run", "-d", "--name", f"bench{number}", "busybox", "sleep", "100000")
        shims = _shims(daemon)
        if len(shims) != containers:
            raise SystemExit(f"{len(shims)} shims for {containers} containers")
        rollups = [_rollup(pid) for pid in shims]
        print(f"\n{'kB of ' + str(containers) + ' idle shims':34}{'min':>9}{'median':>9}")
        for key in ("Rss", "Pss", "Private_Dirty", "Private_Clean"):
            values = [rollup[key] for rollup in rollups]
            print(f"{key:34}{min(values):>9}{statistics.median(values):>9.0f}")
        for number in range(containers):
            daemon.docker("rm", "-f", f"bench{number}")
        daemon.stop()


def _shims(daemon: Daemon) -> list[int]:
    """Give the processes that hold a `shim.log` of the daemon open."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "fd/2").readlink().is_relative_to(daemon.state):
                found.append(int(entry.name))
    return found


def _rollup(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {key.rstrip(":"): int(value) for key, value, _ in (line.split() for line in lines)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=100, help="rounds of each time")
    parser.add_argument("--containers", type=int, default=10, help="idle containers whose shims are measured; 0: none")
    options = parser.parse_args()
    asyncio.run(measure_times(options.n))
    if options.containers:
        measure_memory(options.containers)


if __name__ == "__main__":
    main()
