"""The runtime suite's ground: containers of one test, and a look at what they leave and what the kernel says of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sampan.api.runtime import Mount, RuntimeDriver, Spec
from sampan.testing.containers import Container, Output, subreaper
from sampan.testing.leaks import Leaks
from sampan.testing.rootfs import build_rootfs
from sampan.testing.selection import DriverSuite
from sampan.testing.spec import container_spec, process_spec

__all__ = [
    "DOCKER_CAPABILITIES",
    "PRINT_SIZE",
    "KernelLimits",
    "MiB",
    "RuntimeGround",
    "Workshop",
    "copy_on_write",
    "shell",
    "status_fields",
]

MiB = 1 << 20
_numbers = count(1)

DOCKER_CAPABILITIES = 0x00000000A80425FB
"""The bits of `spec.DEFAULT_CAPABILITIES` (include/uapi/linux/capability.h)."""

PRINT_SIZE = "until stty size 2>/dev/null; do sleep 0.01; done"
"""Prints the terminal's size once it has one: some runtimes (crun 1.8) set it when the program runs already."""


def shell(script: str, **changes: Any) -> Spec:
    """Give a process that runs `script`."""
    return process_spec(["/bin/sh", "-c", script], **changes)


class Workshop:
    """Makes containers for one test, and removes them after it."""

    def __init__(
        self, driver_class: type[RuntimeDriver], config: Mapping[str, Any], tree: Path, directory: Path
    ) -> None:
        self.driver_class, self.config, self.tree, self.directory = driver_class, config, tree, directory
        self.mark = f"sampan-suite-{os.getpid()}-{next(_numbers)}"
        self.made: list[Container] = []

    def spec(self, script: str, **process: Any) -> Spec:
        """Give the configuration of a container that runs `script`; process fields by name."""
        return container_spec(["/bin/sh", "-c", script], cgroup=f"/{self._id()}", **process)

    def container(
        self, spec: Spec, *, rootfs: tuple[Mount, ...] | None = None, netns: int = -1, userns: int = -1
    ) -> Container:
        """Give a container that is still to be created. Its root is a bind mount of the shared tree
        unless told."""
        name = self._id()
        made = Container(
            self.driver_class, self.config, name, self.directory / name, spec,
            (Mount("bind", str(self.tree), ("rbind",)),) if rootfs is None else rootfs, netns, userns,
        )  # fmt: skip
        self.made.append(made)
        return made

    def run(self, script: str, stdin: bytes = b"", **process: Any) -> Output:
        """Run `script` in a container of its own to the end."""
        return self.container(self.spec(script, **process)).run(stdin)

    def idle(self, spec: Spec | None = None, **options: Any) -> Container:
        """Give a running container that does nothing until it is told to end."""
        container = self.container(spec or self.spec("sleep 1000"), **options)
        return container.create().start()

    def close(self) -> None:
        """Delete all containers."""
        for container in self.made:
            container.close()

    def _id(self) -> str:
        return f"{self.mark}-{len(self.made)}"


class RuntimeGround(DriverSuite):
    """What a test class of a runtime driver stands on: a workshop for its containers, and the look at what they leave."""

    driver_class: ClassVar[type[RuntimeDriver]]
    driver_config: ClassVar[Mapping[str, Any]] = {}
    require_supported: ClassVar[bool] = False
    """Fail, and don't skip, on a host that can't run the driver."""

    @pytest.fixture(scope="class")
    @classmethod
    def tree(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A root file system that the class's tests share; they write to it under /tmp only."""
        return build_rootfs(tmp_path_factory.mktemp("tree") / "rootfs")

    @pytest.fixture(scope="class")
    @classmethod
    def capabilities(cls, tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
        """What the driver claims on this host."""
        probe = cls.driver_class.probe(tmp_path_factory.mktemp("root"))
        if not probe.supported:
            (pytest.fail if cls.require_supported else pytest.skip)(probe.reason)
        return probe.capabilities

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls) -> Mapping[str, Any]:
        """`driver_config` as the daemon hands it to a shim: checked by the driver's model, and plain."""
        return cls.driver_class.config_model().model_validate(dict(cls.driver_config)).model_dump(mode="json")

    @pytest.fixture
    def workshop(
        self,
        capabilities: frozenset[str],
        settings: Mapping[str, Any],
        tree: Path,
        tmp_path: Path,
    ) -> Iterator[Workshop]:
        """Make containers in the test; afterwards they are deleted and nothing of them is left on the
        host."""
        workshop = Workshop(self.driver_class, settings, tree, tmp_path)
        leaks = Leaks.before(mark=workshop.mark)
        with subreaper():
            try:
                yield workshop
            finally:
                workshop.close()
        leaks.check()
        for container in workshop.made:
            state = container.directory / "state"
            assert not state.exists() or list(state.iterdir()) == [], "delete leaves files in the state directory"


def copy_on_write(tree: Path, directory: Path) -> tuple[Mount, ...]:
    """Give a root over `tree` with `directory`/upper for what is written."""
    for name in ("upper", "work"):
        (directory / name).mkdir()
    options = (f"lowerdir+={tree}", f"upperdir={directory / 'upper'}", f"workdir={directory / 'work'}")
    return (Mount("overlay", "overlay", options),)


def status_fields(output: Output, prefix: str) -> dict[str, int]:
    """Pick fields of /proc/self/status from an output; their values are hexadecimal or small."""
    pairs = (line.split(":\t") for line in output.lines if ":\t" in line)
    return {name: int(value, 16) for name, value in pairs if name.startswith(prefix)}


class KernelLimits:
    """Reads limits of a process's cgroup where the kernel keeps them: v1 files where v1 has the
    controller, else v2's."""

    def __init__(self, pid: int) -> None:
        lines = (line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
        self._paths = {name: path for _, names, path in lines for name in names.split(",")}
        hierarchies = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
        self._roots: dict[str, str] = {}
        for _, target, kind, options, *_ in hierarchies:
            if kind == "cgroup":
                self._roots |= {option: target for option in options.split(",") if option in self._paths}
            elif kind == "cgroup2":
                self._roots.setdefault("", target)

    def memory(self) -> int:
        """Bytes."""
        return int(self._read("memory", "memory.limit_in_bytes", "memory.max"))

    def memory_and_swap(self) -> int | None:
        """Bytes of both together; None where the kernel counts no swap."""
        try:
            if "memory" in self._roots:
                return int(self._read("memory", "memory.memsw.limit_in_bytes", ""))
            return self.memory() + int(self._read("memory", "", "memory.swap.max"))
        except FileNotFoundError:
            return None

    def reservation(self) -> int:
        """Bytes."""
        return int(self._read("memory", "memory.soft_limit_in_bytes", "memory.low"))

    def weight(self) -> float:
        """Weight against others; 1 is what everybody has."""
        return int(self._read("cpu", "cpu.shares", "cpu.weight")) / (1024 if "cpu" in self._roots else 100)

    def pids(self) -> int:
        """How many."""
        return int(self._read("pids", "pids.max", "pids.max"))

    def cpus(self) -> str:
        """The list of the cpuset, such as `0-1`."""
        return self._read("cpuset", "cpuset.cpus", "cpuset.cpus")

    def cpu(self) -> tuple[int, int]:
        """Quota and period in microseconds."""
        if "cpu" in self._roots:
            return (
                int(self._read("cpu", "cpu.cfs_quota_us", "")),
                int(self._read("cpu", "cpu.cfs_period_us", "")),
            )
        quota, period = self._read("cpu", "", "cpu.max").split()
        return int(quota), int(period)

    def _read(self, controller: str, v1: str, v2: str) -> str:
        name, file = (controller, v1) if controller in self._roots else ("", v2)
        return Path(f"{self._roots[name]}{self._paths[name]}/{file}").read_text().strip()
