from __future__ import annotations

from sampan_network_example.driver import ExampleDriver

from sampan.testing.network import NetworkDriverSuite


class TestExample(NetworkDriverSuite):
    driver_class = ExampleDriver
    has_default_network = False
