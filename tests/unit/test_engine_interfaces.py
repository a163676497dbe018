from __future__ import annotations

import pytest

from sampan.api.errors import Conflict, InvalidArgument
from sampan.engine.interfaces import NAME, PREFIX, choose


def test_names() -> None:
    assert choose({}, {}, []) == "eth0"
    assert choose({}, {}, ["eth0", "eth2"]) == "eth1"
    assert choose({PREFIX: "web"}, {}, ["eth0", "web0"]) == "web1"
    assert choose({PREFIX: "web"}, {NAME: "lan"}, ["eth0"]) == "lan"


@pytest.mark.parametrize("name", ["", "lo", "..", "a/b", "a b", "a:b", "eth%d", "sixteen-bytes-xx", "a\n", "é" * 8])
def test_names_that_the_kernel_refuses(name: str) -> None:
    if name:
        with pytest.raises(InvalidArgument, match="invalid interface name"):
            choose({}, {NAME: name}, [])
    with pytest.raises(InvalidArgument):
        choose({PREFIX: "a" * 15}, {}, [])


def test_a_name_that_is_taken() -> None:
    with pytest.raises(Conflict, match="'eth1'"):
        choose({}, {NAME: "eth1"}, ["eth0", "eth1"])
