"""Registration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sampan.api.hookspecs import hookimpl

if TYPE_CHECKING:
    from sampan.api.runtime import RuntimeDriver


@hookimpl
def sampan_register_runtime_drivers() -> Sequence[type[RuntimeDriver]]:
    """Give the one driver."""
    from sampan_runtime_native.driver import NativeRuntime

    return [NativeRuntime]
