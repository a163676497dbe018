from __future__ import annotations

from sampan_runtime_example.driver import ExampleRuntime

from sampan.testing.runtime import RuntimeDriverSuite


class TestExample(RuntimeDriverSuite):
    driver_class = ExampleRuntime
    require_supported = True
