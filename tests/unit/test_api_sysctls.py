from __future__ import annotations

import pytest

from sampan.api.errors import InvalidArgument
from sampan.api.sysctls import OPTION, interface_sysctls


def test_the_interface_takes_the_place_of_its_name() -> None:
    text = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.neigh.ifname.base_reachable_time_ms=20000"
    assert interface_sysctls({OPTION: text}, "eth3") == (
        ("ipv4/conf/eth3/log_martians", "1"),
        ("ipv6/neigh/eth3/base_reachable_time_ms", "20000"),
    )
    assert interface_sysctls({}, "eth0") == interface_sysctls({OPTION: ""}, "eth0") == ()


@pytest.mark.parametrize(
    "text",
    [
        "net.ipv4.conf.eth0.log_martians=1",
        "net.core.conf.IFNAME.x=1",
        "net.ipv4.ip_forward=1",
        "net.ipv4.conf.IFNAME.log_martians",
        "net.ipv4.conf.IFNAME.../../../../kernel/core_pattern=|/bin/x",
        "net.ipv4.../../kernel.IFNAME.x=1",
        "net.ipv4.conf.IFNAME.log_martians=1,",
        "kernel.conf.IFNAME.x.y=1",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="unrecognised network interface sysctl"):
        interface_sysctls({OPTION: text}, "eth0")
