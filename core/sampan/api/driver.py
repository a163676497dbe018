"""What drivers of every plank have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from sampan.api.config import DriverConfig


@dataclass(frozen=True, slots=True)
class Probe:
    """What a driver found when it looked at the host.

    `reason` says why it is not supported and what would change that. `capabilities` are the optional parts of the
    contract that work here; the engine and the conformance suite go by them. `lacks` says of capabilities that are not
    among them why not, and what would change that: capability → reason, for a clear refusal.
    """

    supported: bool
    reason: str = ""
    capabilities: frozenset[str] = frozenset()
    lacks: Mapping[str, str] = field(default_factory=dict)


class Driver(ABC):
    """Base of all drivers. Registering or constructing one touches nothing; `open` is the first effect on the host.

    Methods are synchronous and are called from worker threads, never two at once for the same object (a snapshot key,
    an endpoint, a container), but at once for different objects.
    """

    name: ClassVar[str]
    """Name in the configuration and on the command line: `[a-z0-9][a-z0-9_-]*`."""

    api_version: ClassVar[tuple[int, int]] = (1, 0)
    """The version of `sampan.api` that the driver was written for."""

    @classmethod
    def config_model(cls) -> type[DriverConfig]:
        """Give the pydantic model of the driver's settings. Import it inside: a shim loads the class without pydantic."""
        from sampan.api.config import DriverConfig

        return DriverConfig

    @classmethod
    @abstractmethod
    def probe(cls, root: Path) -> Probe:
        """Say whether this host can run the driver with its data under `root`. Never raises, leaves nothing behind."""
