from __future__ import annotations

from sampan.testing.network import NetworkDriverSuite
from sampan_network_bridge.driver import BridgeDriver


class TestBridge(NetworkDriverSuite):
    driver_class = BridgeDriver
