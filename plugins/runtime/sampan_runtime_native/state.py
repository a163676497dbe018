"""What a container is to those outside of it: the OCI state, which hooks and seccomp listeners are given.

Source: OCI runtime spec 1.2, `runtime.md#state`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sampan.api.runtime import CreateRequest


@dataclass(frozen=True, slots=True)
class ContainerState:
    """What of the state stays the same all the container's life. `bundle` is an absolute path."""

    version: str
    id: str
    bundle: str
    annotations: Mapping[str, str]

    @classmethod
    def of_request(cls, request: CreateRequest) -> ContainerState:
        """Take it from what `create` got."""
        spec = request.spec
        return cls(spec.get("ociVersion") or "1.0.2", request.id, str(request.bundle), spec.get("annotations") or {})

    def at(self, status: str, pid: int = 0) -> dict[str, Any]:
        """Give the OCI object for a status (`creating`, `created`, `running`, `stopped`) and the first process, 0 for none."""
        state: dict[str, Any] = {"ociVersion": self.version, "id": self.id, "status": status}
        if pid:
            state["pid"] = pid
        return {**state, "bundle": self.bundle, "annotations": dict(self.annotations)}

    def to_data(self) -> dict[str, Any]:
        """Give plain data, of which the class makes it again."""
        return asdict(self)
