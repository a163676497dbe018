"""Registration of the default IPAM driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sampan.api.hookspecs import hookimpl

if TYPE_CHECKING:
    from sampan.api.ipam import IpamDriver


@hookimpl
def sampan_register_ipam_drivers() -> Sequence[type[IpamDriver]]:
    """Give the driver class."""
    from sampan_ipam_default.driver import DefaultIpam

    return [DefaultIpam]
