from __future__ import annotations

import pytest

from sampan.api.errors import Unavailable
from sampan.api.ipam import AddressRequest, IpamDriver, PoolRequest
from sampan.api.network import Subnet
from sampan.testing.ipam import IpamDriverSuite
from sampan.testing.namespaces import Namespace
from sampan_ipam_default.driver import DefaultIpam


class TestDefault(IpamDriverSuite):
    driver_class = DefaultIpam

    def test_dockers_order(self, driver: IpamDriver, host: Namespace) -> None:
        given: list[str] = []
        for _ in range(17):
            given.append(host.run(driver.choose_subnet, PoolRequest(in_use=tuple(given))).prefix)
        assert given == [f"172.{n}.0.0/16" for n in range(17, 32)] + ["192.168.0.0/20", "192.168.16.0/20"]

    def test_the_lowest_free_address(self, driver: IpamDriver) -> None:
        subnet = Subnet("172.17.0.0/16", "172.17.0.1")
        assert driver.choose_address(AddressRequest(subnet)) == "172.17.0.2/16"
        assert driver.choose_address(AddressRequest(subnet, in_use=("172.17.0.2", "172.17.0.4"))) == "172.17.0.3/16"


class TestOwnPools(IpamDriverSuite):
    driver_class = DefaultIpam
    driver_config = {"pools": [{"base": "10.80.0.0/22", "size": 25}, {"base": "fd00:80::/56", "size": 64}]}

    def test_pools_run_out(self, driver: IpamDriver, host: Namespace) -> None:
        given: list[str] = []
        for _ in range(8):
            given.append(host.run(driver.choose_subnet, PoolRequest(in_use=tuple(given))).prefix)
        with pytest.raises(Unavailable, match=r"ipam\.default"):
            host.run(driver.choose_subnet, PoolRequest(in_use=tuple(given)))

    def test_a_pool_that_cannot_be_cut_is_refused(self) -> None:
        model = self.driver_class.config_model()
        with pytest.raises(ValueError, match="cannot be cut"):
            model(pools=[{"base": "10.0.0.0/24", "size": 16}])  # type: ignore[call-arg]
