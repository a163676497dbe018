from __future__ import annotations

import pytest

from sampan.api.errors import Forbidden, Unsupported
from sampan.api.network import Endpoint, Network, PortMapping
from sampan.testing.network import Lab, NetworkDriverSuite
from sampan_network_host.driver import HostDriver


class TestHost(NetworkDriverSuite):
    driver_class = HostDriver

    def test_ports_are_discarded_at_attach_and_refused_later(self, lab: Lab) -> None:
        network = Network("aa", "host", "host")
        endpoint = Endpoint("bb", "aa", "cc", ports=(PortMapping("tcp", 80, 80),))
        assert lab.driver.attach(network, endpoint, -1).ports == ()
        with pytest.raises(Unsupported):
            lab.driver.publish(network, endpoint, endpoint.ports)

    def test_there_is_one(self, lab: Lab) -> None:
        with pytest.raises(Forbidden):
            lab.driver.create_network(Network("aa", "mine", "host"))
