"""Entry point: says which drivers this distribution has."""

from __future__ import annotations

from collections.abc import Sequence

from sampan.api.hookspecs import hookimpl
from sampan.api.network import NetworkDriver


@hookimpl
def sampan_register_network_drivers() -> Sequence[type[NetworkDriver]]:
    """Offer the driver."""
    from sampan_network_example.driver import ExampleDriver

    return [ExampleDriver]
