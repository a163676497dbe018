"""What every runtime driver must do. A driver's author subclasses the suite in a test file and is done:

    from sampan.testing.runtime import RuntimeDriverSuite

    class TestMine(RuntimeDriverSuite):
        driver_class = MyRuntime
        driver_config = {"binary": "mine"}
        require_supported = True

It needs root, a static busybox on the host and pytest. Every test ends with a look for what the driver
has left behind. A test of an optional part of the contract is taken out for a driver whose probe does not
claim that part, and the refusal is tested in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sampan.api.runtime import RuntimeDriver
from sampan.testing.containers import subreaper
from sampan.testing.leaks import Leaks
from sampan.testing.rootfs import build_rootfs
from sampan.testing.runtime_cgroups import CgroupCases
from sampan.testing.runtime_descriptors import DescriptorCases
from sampan.testing.runtime_exec import ExecCases
from sampan.testing.runtime_files import FileCases
from sampan.testing.runtime_ground import Workshop
from sampan.testing.runtime_isolation import IsolationCases
from sampan.testing.runtime_life import LifeCases
from sampan.testing.runtime_limits import LimitCases
from sampan.testing.runtime_programs import ProgramCases
from sampan.testing.runtime_refusals import RefusalCases
from sampan.testing.runtime_rights import RightCases
from sampan.testing.runtime_terminals import TerminalCases
from sampan.testing.selection import DriverSuite

__all__ = ["RuntimeDriverSuite", "Workshop"]


class RuntimeDriverSuite(
    ProgramCases,
    DescriptorCases,
    IsolationCases,
    FileCases,
    RightCases,
    LimitCases,
    CgroupCases,
    LifeCases,
    TerminalCases,
    ExecCases,
    RefusalCases,
    DriverSuite,
):
    """Every rule of `sampan.api.runtime`."""

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
