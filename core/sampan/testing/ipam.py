"""What every IPAM driver must do. A driver's author subclasses the suite in a test file and is done:

    from sampan.testing.ipam import IpamDriverSuite

    class TestMine(IpamDriverSuite):
        driver_class = MyIpam

It needs pytest, and root for the tests that look at routes of a host, which is a network namespace of their
own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sampan.api.errors import Conflict, InvalidArgument, Unavailable
from sampan.api.ipam import AddressRequest, IpamDriver, PoolRequest
from sampan.api.network import Subnet
from sampan.linux.netlink import Netlink, add_address, add_bridge, add_route, link_index, set_link
from sampan.testing.namespaces import Namespace

__all__ = ["IpamDriverSuite"]

_SMALL = Subnet("10.5.0.0/29", "10.5.0.1")


class IpamDriverSuite:
    """The contract's tests. Set `driver_class`, and `driver_config` if it needs one."""

    driver_class: ClassVar[type[IpamDriver]]
    driver_config: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def driver(self) -> IpamDriver:
        """Give the driver with its configuration."""
        return self.driver_class(self.driver_class.config_model()(**self.driver_config))

    @pytest.fixture
    def host(self) -> Iterator[Namespace]:
        """Give a host without routes."""
        made = Namespace()
        yield made
        made.close()

    def test_the_probe_finds_it_supported(self, tmp_path: Path) -> None:
        """The probe finds it supported."""
        assert self.driver_class.probe(tmp_path).supported

    @pytest.mark.parametrize("version", [4, 6])
    def test_subnets_do_not_overlap(self, driver: IpamDriver, host: Namespace, version: int) -> None:
        """Subnets do not overlap."""
        given: list[str] = []
        for _ in range(5):
            subnet = host.run(driver.choose_subnet, PoolRequest(version=version, in_use=tuple(given)))
            network = ipaddress.ip_network(subnet.prefix)
            assert network.version == version
            assert ipaddress.ip_address(str(subnet.gateway)) in network
            assert not any(network.overlaps(ipaddress.ip_network(other)) for other in given)
            given.append(subnet.prefix)

    @pytest.mark.parametrize("version", [4, 6])
    def test_the_hosts_own_networks_are_kept_clear(self, driver: IpamDriver, host: Namespace, version: int) -> None:
        """A subnet that the host has an address in is not given, be it larger or smaller."""
        asked = PoolRequest(version=version)
        first = ipaddress.ip_network(host.run(driver.choose_subnet, asked).prefix)
        host.run(_occupy, f"{first[5]}/{first.prefixlen + 4}")
        second = ipaddress.ip_network(host.run(driver.choose_subnet, asked).prefix)
        assert not second.overlaps(first)

    @pytest.mark.parametrize("version", [4, 6])
    def test_what_the_host_routes_elsewhere_is_kept_clear(self, driver: IpamDriver, host: Namespace, version: int) -> None:
        """A subnet that a gateway leads to is not given, nor one of those around it."""
        asked = PoolRequest(version=version)
        host.run(_occupy, "192.0.2.1/24", "2001:db8::1/64")
        gateway = "192.0.2.9" if version == 4 else "2001:db8::9"
        first = ipaddress.ip_network(host.run(driver.choose_subnet, asked).prefix)
        second = ipaddress.ip_network(host.run(driver.choose_subnet, PoolRequest(version=version, in_use=(str(first),))).prefix)
        host.run(_route, str(first.supernet()), gateway)
        host.run(_route, f"{second[-2]}/{second.max_prefixlen}", gateway)
        third = ipaddress.ip_network(host.run(driver.choose_subnet, asked).prefix)
        assert not third.overlaps(first.supernet()) and not third.overlaps(second)

    def test_default_routes_leave_room(self, driver: IpamDriver, host: Namespace) -> None:
        """A default route leads everywhere, and so do the two halves that a VPN sets: subnets are still found."""
        host.run(_occupy, "192.0.2.1/24", "2001:db8::1/64")
        for destination in ("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"):
            host.run(_route, destination, "192.0.2.9")
        for destination in ("::/0", "::/1", "8000::/1"):
            host.run(_route, destination, "2001:db8::9")
        for version in (4, 6):
            assert host.run(driver.choose_subnet, PoolRequest(version=version)).version == version

    def test_a_named_subnet_is_given_as_asked(self, driver: IpamDriver) -> None:
        """A named subnet is given as asked."""
        assert driver.choose_subnet(PoolRequest(prefix="10.5.0.0/24")) == Subnet("10.5.0.0/24", "10.5.0.1")
        asked = PoolRequest(prefix="10.5.0.0/24", gateway="10.5.0.254")
        assert driver.choose_subnet(asked) == Subnet("10.5.0.0/24", "10.5.0.254")

    def test_a_named_subnet_that_overlaps_is_a_conflict(self, driver: IpamDriver) -> None:
        """A named subnet that overlaps is a conflict."""
        with pytest.raises(Conflict, match="overlaps"):
            driver.choose_subnet(PoolRequest(prefix="10.5.0.0/24", in_use=("10.0.0.0/8",)))

    @pytest.mark.parametrize(
        "request_",
        [
            PoolRequest(prefix="10.5.0/24"),
            PoolRequest(prefix="10.5.0.0/24", gateway="10.6.0.1"),
            PoolRequest(prefix="10.5.0.0/24", ip_range="10.6.0.0/28"),
            PoolRequest(prefix="10.5.0.0/24", gateway="10.5.0.0"),
            PoolRequest(prefix="10.5.0.0/24", gateway="10.5.0.255"),
            PoolRequest(prefix="10.5.0.0/24", gateway="fd00::1"),
            PoolRequest(prefix="10.5.0.0/24", ip_range="10.5.0.0/16"),
            PoolRequest(prefix="10.5.0.0/24", ip_range="fd00::/120"),
            PoolRequest(prefix="10.5.0.0/24", ip_range="10.5.0.255/32"),
            PoolRequest(prefix="10.5.0.0/32"),
            PoolRequest(prefix="fd00:5::/128"),
            PoolRequest(prefix="224.5.0.0/24"),
            PoolRequest(prefix="127.0.0.0/8"),
            PoolRequest(prefix="ff05::/64"),
            PoolRequest(prefix="fd00:5::%eth0/64"),
            PoolRequest(prefix="fd00:5::/64", gateway="fd00:5::1%eth0"),
        ],
    )
    def test_what_makes_no_subnet_is_refused(self, driver: IpamDriver, request_: PoolRequest) -> None:
        """What makes no subnet is refused."""
        with pytest.raises(InvalidArgument):
            driver.choose_subnet(request_)

    def test_every_address_is_given_once_and_then_none(self, driver: IpamDriver) -> None:
        """Every address is given once and then none."""
        given = {"10.5.0.1"}
        for _ in range(5):
            text = driver.choose_address(AddressRequest(_SMALL, in_use=tuple(given)))
            assert text.endswith("/29")
            address = text.partition("/")[0]
            assert ipaddress.ip_address(address) in ipaddress.ip_network(_SMALL.prefix)
            assert address not in given
            given.add(address)
        assert not given & {"10.5.0.0", "10.5.0.7"}, "neither the network's address nor the broadcast is a host's"
        with pytest.raises(Unavailable):
            driver.choose_address(AddressRequest(_SMALL, in_use=tuple(given)))

    def test_an_address_given_back_is_given_again(self, driver: IpamDriver) -> None:
        """An address given back is given again."""
        full = {f"10.5.0.{number}" for number in range(1, 7)}
        driver.release("10.5.0.4")
        assert driver.choose_address(AddressRequest(_SMALL, in_use=tuple(full - {"10.5.0.4"}))) == "10.5.0.4/29"

    @pytest.mark.parametrize(
        ("prefix", "gateway", "given"),
        [
            ("10.5.0.0/31", "10.5.0.0", ["10.5.0.1"]),
            ("10.5.0.0/30", "10.5.0.1", ["10.5.0.2"]),
            ("fd00:5::/127", "fd00:5::", ["fd00:5::1"]),
            ("fd00:5::/126", "fd00:5::1", ["fd00:5::2", "fd00:5::3"]),
        ],
    )
    def test_tiny_subnets_are_used_to_the_last_address(
        self, driver: IpamDriver, prefix: str, gateway: str, given: list[str]
    ) -> None:  # fmt: skip
        """Two addresses are a gateway and a container (RFC 3021, RFC 6164); IPv6 knows no broadcast."""
        subnet = driver.choose_subnet(PoolRequest(prefix=prefix))
        assert subnet == Subnet(prefix, gateway)
        taken: list[str] = []
        for _ in given:
            taken.append(driver.choose_address(AddressRequest(subnet, in_use=tuple(taken))).partition("/")[0])
        assert sorted(taken) == given
        with pytest.raises(Unavailable):
            driver.choose_address(AddressRequest(subnet, in_use=tuple(taken)))

    @pytest.mark.parametrize("prefix", ["10.0.0.0/8", "fd00::/8", "fd00:5::/64"])
    def test_a_huge_subnet_is_as_quick_as_a_small_one(self, driver: IpamDriver, prefix: str) -> None:
        """Nobody walks through 2^120 addresses: this test would never end."""
        subnet = driver.choose_subnet(PoolRequest(prefix=prefix))
        network = ipaddress.ip_network(prefix)
        taken = [str(network[number]) for number in range(1, 2000)]
        chosen = driver.choose_address(AddressRequest(subnet, in_use=taken)).partition("/")[0]
        assert ipaddress.ip_address(chosen) in network and chosen not in taken
        last = str(network[-2])
        assert driver.choose_address(AddressRequest(subnet, preferred=last)).partition("/")[0] == last

    def test_a_range_bounds_the_choice(self, driver: IpamDriver) -> None:
        """A range bounds the choice."""
        subnet = Subnet("10.5.0.0/24", "10.5.0.1")
        asked = AddressRequest(subnet, ip_range="10.5.0.64/30", in_use=("10.5.0.1", "10.5.0.64", "10.5.0.65"))
        assert driver.choose_address(asked) in ("10.5.0.66/24", "10.5.0.67/24")
        full = AddressRequest(subnet, ip_range="10.5.0.64/30", in_use=[f"10.5.0.{number}" for number in range(64, 68)])
        with pytest.raises(Unavailable):
            driver.choose_address(full)

    def test_a_range_bounds_the_gateway(self, driver: IpamDriver) -> None:
        """The gateway is of the range too, unless it is named: what lies outside is not ours to give."""
        subnet = driver.choose_subnet(PoolRequest(prefix="10.5.0.0/24", ip_range="10.5.0.64/30"))
        assert ipaddress.ip_address(str(subnet.gateway)) in ipaddress.ip_network("10.5.0.64/30")
        named = PoolRequest(prefix="10.5.0.0/24", ip_range="10.5.0.64/30", gateway="10.5.0.254")
        assert driver.choose_subnet(named).gateway == "10.5.0.254"

    def test_a_preferred_address_may_lie_outside_of_the_range(self, driver: IpamDriver) -> None:
        """The range is where addresses are chosen from; who names one may name any of the subnet."""
        asked = AddressRequest(Subnet("10.5.0.0/24", "10.5.0.1"), ip_range="10.5.0.64/30", preferred="10.5.0.200")
        assert driver.choose_address(asked) == "10.5.0.200/24"

    def test_a_preferred_address_is_given(self, driver: IpamDriver) -> None:
        """A preferred address is given."""
        assert (
            driver.choose_address(AddressRequest(_SMALL, preferred="10.5.0.5", in_use=("10.5.0.1",))) == "10.5.0.5/29"
        )

    def test_a_preferred_address_that_is_taken_is_a_conflict(self, driver: IpamDriver) -> None:
        """A preferred address that is taken is a conflict."""
        for taken in ("10.5.0.1", "10.5.0.5"):
            with pytest.raises(Conflict, match="Address already in use"):
                driver.choose_address(AddressRequest(_SMALL, preferred=taken, in_use=("10.5.0.5",)))

    @pytest.mark.parametrize("preferred", ["10.6.0.5", "10.5.0.0", "10.5.0.7", "ten"])
    def test_a_preferred_address_that_is_no_hosts_is_refused(self, driver: IpamDriver, preferred: str) -> None:
        """A preferred address that is no host's is refused."""
        with pytest.raises(InvalidArgument):
            driver.choose_address(AddressRequest(_SMALL, preferred=preferred))

    def test_a_preferred_address_has_no_zone(self, driver: IpamDriver) -> None:
        """A zone is a link's name on one machine (RFC 4007), and may be any text."""
        with pytest.raises(InvalidArgument):
            driver.choose_address(AddressRequest(Subnet("fd00:5::/64", "fd00:5::1"), preferred="fd00:5::5%eth0"))

    def test_ipv6_addresses(self, driver: IpamDriver) -> None:
        """IPv6 addresses."""
        subnet = Subnet("fd00:5::/64", "fd00:5::1")
        first = driver.choose_address(AddressRequest(subnet, in_use=("fd00:5::1",)))
        second = driver.choose_address(AddressRequest(subnet, in_use=("fd00:5::1", first.partition("/")[0])))
        assert first != second and second.endswith("/64")
        assert "fd00:5::/64" not in (first, second), "the first address is every router's (RFC 4291)"


def _occupy(*addresses: str) -> None:
    with Netlink() as kernel:
        kernel.run(add_bridge("lan"), set_link("lan", up=True))
        kernel.run(*(add_address(link_index("lan"), address) for address in addresses))


def _route(destination: str, gateway: str) -> None:
    with Netlink() as kernel:
        kernel.run(add_route(destination, gateway=gateway))
