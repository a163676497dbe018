"""Registration of the drivers `runc`, `crun`, `runsc` and `oci`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sampan.api.hookspecs import hookimpl

if TYPE_CHECKING:
    from sampan.api.runtime import RuntimeDriver


@hookimpl
def sampan_register_runtime_drivers() -> Sequence[type[RuntimeDriver]]:
    """Give one class per program that we know to work; another OCI runtime is a subclass of `OciRuntime`
    away."""
    from sampan_runtime_oci.driver import AnyRuntime, CrunRuntime, RuncRuntime, RunscRuntime

    return [RuncRuntime, CrunRuntime, RunscRuntime, AnyRuntime]
