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

from sampan.testing.runtime_cgroups import CgroupCases
from sampan.testing.runtime_descriptors import DescriptorCases
from sampan.testing.runtime_exec import ExecCases
from sampan.testing.runtime_files import FileCases
from sampan.testing.runtime_ground import RuntimeGround, Workshop
from sampan.testing.runtime_hooks import HookCases
from sampan.testing.runtime_isolation import IsolationCases
from sampan.testing.runtime_life import LifeCases
from sampan.testing.runtime_limits import LimitCases
from sampan.testing.runtime_mounts import MountCases
from sampan.testing.runtime_namespaces import NamespaceCases
from sampan.testing.runtime_process import ProcessCases
from sampan.testing.runtime_programs import ProgramCases
from sampan.testing.runtime_recovery import RecoveryCases
from sampan.testing.runtime_refusals import RefusalCases
from sampan.testing.runtime_rights import RightCases
from sampan.testing.runtime_seccomp import SeccompCases
from sampan.testing.runtime_terminals import TerminalCases

__all__ = ["RuntimeDriverSuite", "RuntimeGround", "Workshop"]


class RuntimeDriverSuite(
    ProgramCases,
    ProcessCases,
    DescriptorCases,
    IsolationCases,
    NamespaceCases,
    MountCases,
    FileCases,
    RightCases,
    SeccompCases,
    LimitCases,
    CgroupCases,
    LifeCases,
    TerminalCases,
    ExecCases,
    HookCases,
    RecoveryCases,
    RefusalCases,
    RuntimeGround,
):
    """Every rule of `sampan.api.runtime`."""
