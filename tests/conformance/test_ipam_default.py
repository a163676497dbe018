from __future__ import annotations

from typing import Any

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

    def test_the_first_address_of_a_range_is_the_gateways(self, driver: IpamDriver) -> None:
        """As dockerd gives it, the very first: within the subnet it is a host's like any other."""
        asked = PoolRequest(prefix="10.5.0.0/24", ip_range="10.5.0.64/28")
        assert driver.choose_subnet(asked) == Subnet("10.5.0.0/24", "10.5.0.64")
        at_the_start = PoolRequest(prefix="10.5.0.0/24", ip_range="10.5.0.0/28")
        assert driver.choose_subnet(at_the_start).gateway == "10.5.0.1"

    @pytest.mark.parametrize("anything", ["0.0.0.0/0", "::/0"])
    def test_the_unspecified_subnet_is_any(self, driver: IpamDriver, host: Namespace, anything: str) -> None:
        version = 6 if ":" in anything else 4
        assert host.run(driver.choose_subnet, PoolRequest(prefix=anything)) == host.run(
            driver.choose_subnet, PoolRequest(version=version)
        )

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

    @pytest.mark.parametrize(
        ("settings", "why"),
        [
            ({"pools": [{"base": "10.0.0.0/24", "size": 16}]}, "cannot be cut"),
            ({"pools": [{"base": "10.0.0.0/24", "size": 31}]}, "cannot be cut"),
            ({"pools": [{"base": "ten", "size": 24}]}, "ten"),
            ({"unique_local": "10.0.0.0/8"}, "holds no IPv6 subnet"),
            ({"unique_local": "fd00::/96"}, "holds no IPv6 subnet"),
        ],
    )
    def test_settings_that_make_no_subnet_are_refused(self, settings: dict[str, Any], why: str) -> None:
        with pytest.raises(ValueError, match=why):
            self.driver_class.config_model()(**settings)


class TestHugePool(IpamDriverSuite):
    """A pool of 2^56 subnets, half of which are taken at once."""

    driver_class = DefaultIpam
    driver_config = {"pools": [{"base": "10.0.0.0/8", "size": 28}, {"base": "fd00::/8", "size": 64}]}

    def test_a_large_network_is_stepped_over(self, driver: IpamDriver, host: Namespace) -> None:
        asked = PoolRequest(version=6, in_use=("fd00::/9", "fd80::/64", "fd80:0:0:2::/64"))
        assert host.run(driver.choose_subnet, asked).prefix == "fd80:0:0:1::/64"
