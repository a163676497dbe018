"""Registration of the macvlan driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sampan.api.hookspecs import hookimpl

if TYPE_CHECKING:
    from sampan.api.network import NetworkDriver


@hookimpl
def sampan_register_network_drivers() -> Sequence[type[NetworkDriver]]:
    """Give the driver class."""
    from sampan_network_macvlan.driver import MacvlanDriver

    return [MacvlanDriver]
