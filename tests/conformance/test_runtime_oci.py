from __future__ import annotations

from sampan_runtime_oci.driver import CrunRuntime, RuncRuntime

from sampan.testing.runtime import RuntimeDriverSuite


class TestRunc(RuntimeDriverSuite):
    driver_class = RuncRuntime
    require_supported = True


class TestCrun(RuntimeDriverSuite):
    driver_class = CrunRuntime
    require_supported = True
