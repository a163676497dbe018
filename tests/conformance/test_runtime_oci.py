from __future__ import annotations

from sampan.testing.runtime import RuntimeDriverSuite
from sampan_runtime_oci.driver import CrunRuntime, RuncRuntime


class TestRunc(RuntimeDriverSuite):
    driver_class = RuncRuntime
    require_supported = True


class TestCrun(RuntimeDriverSuite):
    driver_class = CrunRuntime
    require_supported = True
