"""What every network driver must do. A driver's author subclasses the suite in a test file and is done:

    from sampan.testing.network import NetworkDriverSuite

    class TestMine(NetworkDriverSuite):
        driver_class = MyDriver

It needs root and pytest. The host is a network namespace, containers are namespaces, and a neighbour outside is one more,
joined by a veth: what is tested are real packets, and the machine's own network is never touched. A test of an optional
part of the contract is taken out for a driver whose probe does not claim that part.

A driver whose networks need options says them in a lab of its own:

    class MyLab(Lab):
        def options(self, number):
            return {"parent": "uplink"}

    class TestMine(NetworkDriverSuite):
        driver_class = MyDriver
        lab_class = MyLab
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sampan.api.network import NetworkDriver
from sampan.linux.netlink import Netlink
from sampan.testing.leaks import Leaks
from sampan.testing.network_crashes import CrashCases
from sampan.testing.network_endpoints import EndpointCases
from sampan.testing.network_ground import ENGINE, HOST, HOST6, OUTSIDE, OUTSIDE6, Lab, address6_of, address_of
from sampan.testing.network_kills import KillCases
from sampan.testing.network_packets import PacketCases
from sampan.testing.network_ports import PortCases
from sampan.testing.network_rules import RuleCases
from sampan.testing.selection import DriverSuite

__all__ = ["HOST", "HOST6", "OUTSIDE", "OUTSIDE6", "Lab", "NetworkDriverSuite", "address6_of", "address_of"]


class NetworkDriverSuite(RuleCases, EndpointCases, PacketCases, PortCases, CrashCases, KillCases, DriverSuite):
    """Every rule of `sampan.api.network`."""

    driver_class: ClassVar[type[NetworkDriver]]
    driver_config: ClassVar[dict[str, Any]] = {}
    """What stands in `[network.NAME]`."""
    lab_class: ClassVar[type[Lab]] = Lab
    """The ground; it knows the options and subnets of the driver's networks."""
    has_default_network: ClassVar[bool] = True
    """Whether `default_network` gives one."""

    @pytest.fixture
    def lab(self, tmp_path: Path) -> Iterator[Lab]:
        """Give a lab; afterwards no descriptor is left open, and nothing of ours is outside of the lab's namespaces."""
        probe = self.driver_class.probe(tmp_path)
        assert probe.supported, probe.reason
        leaks = Leaks.before(mark=ENGINE)
        with ExitStack() as stack:
            yield self.lab_class(self.driver_class, self.driver_config, tmp_path, stack)
        leaks.check()
        with Netlink() as kernel:
            assert [link.name for link in kernel.links() if ENGINE in link.alias] == []
