"""Entry point: says which drivers this distribution has."""

from __future__ import annotations

from collections.abc import Sequence

from sampan.api.hookspecs import hookimpl
from sampan.api.runtime import RuntimeDriver


@hookimpl
def sampan_register_runtime_drivers() -> Sequence[type[RuntimeDriver]]:
    """Offer the driver."""
    from sampan_runtime_example.driver import ExampleRuntime

    return [ExampleRuntime]
