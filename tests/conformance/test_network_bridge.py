from __future__ import annotations

import pytest
from sampan_network_bridge.driver import BridgeDriver

from sampan.testing.network import NetworkDriverSuite


class TestBridge(NetworkDriverSuite):
    driver_class = BridgeDriver
