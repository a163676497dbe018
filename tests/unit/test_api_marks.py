from __future__ import annotations

from sampan.api.marks import Marks
from sampan.linux.netlink import Link


def link(alias: str) -> Link:
    return Link(index=7, name="x", kind="bridge", mac="", mtu=1500, master=0, up=True, alias=alias)


def test_a_mark_names_engine_driver_and_object() -> None:
    marks = Marks("5a3bca7e", "vxlan")
    assert marks.network("ab12") == "sampan 5a3bca7e vxlan network ab12"
    assert marks.endpoint("cd34") == "sampan 5a3bca7e vxlan endpoint cd34"


def test_only_the_own_links_are_owned() -> None:
    mine = Marks("5a3bca7e", "vxlan")
    assert mine.own(link(mine.network("ab12"))) and mine.own(link(mine.endpoint("cd34")))
    for other in (Marks("5a3b0000", "vxlan"), Marks("5a3bca7e", "bridge"), Marks("5a3bca7e", "vxlan2")):
        assert not mine.own(link(other.network("ab12")))
    assert not mine.own(link(""))
