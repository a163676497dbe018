from __future__ import annotations

from sampan.testing.runtime import RuntimeDriverSuite
from sampan_runtime_oci.driver import CrunRuntime, RuncRuntime


class TestRunc(RuntimeDriverSuite):
    driver_class = RuncRuntime
    require_supported = True


class TestCrun(RuntimeDriverSuite):
    driver_class = CrunRuntime
    require_supported = True

    # crun 1.8 ends with a segmentation fault when it lists the processes of v1 cgroups below the container's.
    test_cgroups_below_are_the_containers_own = None  # type: ignore[assignment]
