from __future__ import annotations

from sampan_runtime_native.driver import NativeRuntime

from sampan.testing.runtime import RuntimeDriverSuite


class TestNative(RuntimeDriverSuite):
    driver_class = NativeRuntime
    require_supported = True
