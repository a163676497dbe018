"""`make bench-runtime`: what the native runtime driver takes beside runc and crun, where they work, in one run, taking turns.

Each operation runs as in a shim: in a forked child that answers JSON. `fork` is such a child that does nothing, and is
part of every other figure. Wall time in milliseconds; look at the minima when other work shares the machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import secrets
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sampan.api.runtime import CreateRequest, ExecRequest, Handle, Mount, RuntimeContext, RuntimeDriver, Spec
from sampan.engine.seccomp_profile import default_seccomp
from sampan.linux.cgroups import Cgroup, favor_moves, leave_moves
from sampan.testing.containers import Process, call_in_child, subreaper
from sampan.testing.rootfs import build_rootfs
from sampan.testing.spec import DEFAULT_CAPABILITIES, container_spec, process_spec
from sampan_runtime_native.driver import NativeRuntime
from sampan_runtime_oci.driver import CrunRuntime, RuncRuntime

DRIVERS: tuple[type[RuntimeDriver], ...] = (NativeRuntime, RuncRuntime, CrunRuntime)


class Bench:
    """Containers of one driver and one busybox tree."""

    def __init__(self, driver_class: type[RuntimeDriver], directory: Path, tree: Path, cgroup: str) -> None:
        """`directory` is this driver's own; `cgroup` is the parent of all containers' cgroups."""
        self._driver_class, self._directory, self._tree, self._cgroup = driver_class, directory, tree, cgroup
        self._made = 0
        self.name = driver_class.name
        self.times: dict[str, list[float]] = defaultdict(list)

    def fork(self) -> None:
        """Time what every operation pays."""
        with self._measure("fork"):
            call_in_child(lambda: None)

    def run(self) -> None:
        """Time the whole life of a container that runs `true`."""
        driver, request, main = self._container("true")
        with self._measure("create+start+wait+delete"):
            with self._measure("create+start"):
                handle, inside = self._launch(driver, request)
            main.started(handle.pid)
            main.wait()
            with self._measure("delete"):
                call_in_child(lambda: driver.delete(handle))
        for phase, took in inside.items():
            self.times[phase].append(took)
        main.close()

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Have a container for `exec` meanwhile."""
        driver, request, main = self._container("sleep", "1000")
        self._idle = driver, self._launch(driver, request)[0]
        main.started(self._idle[1].pid)
        try:
            yield
        finally:
            call_in_child(lambda: driver.delete(self._idle[1]))
            main.wait()
            main.close()

    def exec(self) -> None:
        """Time an exec of `true` in the idle container."""
        driver, handle = self._idle
        process = Process()
        request = ExecRequest(f"e{len(self.times['exec'])}", process_spec(["true"]), process.stdio)
        with self._measure("exec+wait"):
            with self._measure("exec"):
                pid = call_in_child(lambda: driver.exec(handle, request))
            process.started(pid)
            process.wait()
        process.close()

    def _container(self, *args: str) -> tuple[RuntimeDriver, CreateRequest, Process]:
        self._made += 1
        container_id = f"{self._cgroup[1:]}-{self._driver_class.name}-{self._made}"
        bundle = self._directory / str(self._made)
        (bundle / "state").mkdir(parents=True)
        spec: Spec = container_spec(args, cgroup=f"{self._cgroup}/{container_id}")
        spec["linux"]["seccomp"] = default_seccomp(DEFAULT_CAPABILITIES)
        (bundle / "config.json").write_text(json.dumps(spec))
        main = Process()
        rootfs = (Mount("bind", str(self._tree), ("rbind",)),)
        driver = self._driver_class(RuntimeContext(bundle / "state", self._directory / "cache"), {})
        return driver, CreateRequest(container_id, bundle, spec, rootfs, main.stdio), main

    @staticmethod
    def _launch(driver: RuntimeDriver, request: CreateRequest) -> tuple[Handle, dict[str, float]]:
        """Create and start in one child, with the spec read from its file, as a shim does."""

        def launch() -> dict[str, Any]:
            began = time.perf_counter()
            spec = json.loads((request.bundle / "config.json").read_bytes())
            read = time.perf_counter()
            handle = driver.create(CreateRequest(request.id, request.bundle, spec, request.rootfs, request.stdio))
            created = time.perf_counter()
            driver.start(handle)
            phases = {
                "  read spec": read - began, "  create": created - read, "  start": time.perf_counter() - created,
            }  # fmt: skip
            return {"handle": asdict(handle), "inside": {phase: took * 1e3 for phase, took in phases.items()}}

        answer = call_in_child(launch)
        return Handle(**answer["handle"]), answer["inside"]

    @contextmanager
    def _measure(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.times[what].append((time.perf_counter() - began) * 1e3)


def measure(rounds: int, classes: list[type[RuntimeDriver]]) -> list[Bench]:
    """Let the drivers take turns, so that an interval of bad luck hits all."""
    cgroup = f"/sampan-bench-{secrets.token_hex(3)}"
    moves = tempfile.mkdtemp(prefix="sampan-moves-") + "/name=sampan"
    favor_moves(moves)
    try:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sampan-bench-")))
            stack.enter_context(subreaper())
            tree = build_rootfs(directory / "tree")
            benches = [Bench(each, directory / each.name, tree, cgroup) for each in classes]
            gc.freeze()
            for bench in benches:
                stack.enter_context(bench.idle())
            for _ in range(rounds):
                for bench in benches:
                    bench.fork()
                    bench.run()
                    bench.exec()
    finally:
        group = Cgroup(cgroup)
        group.kill()  # a round that failed has left its container
        group.remove()
        leave_moves(moves)
        Path(moves).parent.rmdir()
    return benches


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=50, help="rounds")
    parser.add_argument("--native-only", action="store_true")
    options = parser.parse_args()
    drivers = DRIVERS[:1] if options.native_only else DRIVERS
    benches = measure(options.n, [each for each in drivers if each.probe(Path("/")).supported])
    print(f"{'ms':28}" + "".join(f"{bench.name + ' min':>14}{'median':>9}" for bench in benches))
    for phase in benches[0].times:
        cells = [bench.times[phase] for bench in benches]
        print(f"{phase:28}" + "".join(f"{min(each):>14.2f}{statistics.median(each):>9.2f}" for each in cells))


if __name__ == "__main__":
    main()
