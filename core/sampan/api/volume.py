"""The volume contract, after Docker's volume plugin protocol: named directories that outlive containers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.api.driver import Driver

if TYPE_CHECKING:
    from sampan.api.config import DriverConfig


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """A volume as its driver knows it. `mountpoint` is a directory on the host, or None while it is not mounted."""

    name: str
    mountpoint: Path | None
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VolumeContext:
    """What the engine hands a driver: `root`, a directory of its own (made before, mode 0701)."""

    root: Path


class VolumeDriver(Driver):
    """Named directories, version 1.0. `remove` and `unmount` are idempotent."""

    def __init__(self, context: VolumeContext, config: DriverConfig) -> None:
        """Keep the arguments; do nothing else."""
        self.context = context
        self.config = config

    @abstractmethod
    def open(self) -> None:
        """Make ready and finish what a crash left half done; idempotent."""

    @abstractmethod
    def create(self, name: str, options: Mapping[str, str]) -> VolumeInfo:
        """Make the volume. An existing one of the same name is given back. `InvalidArgument` for a bad option."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Delete the volume with its contents."""

    @abstractmethod
    def mount(self, name: str, user: str) -> Path:
        """Make the volume usable for `user` (a container's id) and give its directory. `NotFound`."""

    @abstractmethod
    def unmount(self, name: str, user: str) -> None:
        """Say that `user` no longer needs it."""

    @abstractmethod
    def get(self, name: str) -> VolumeInfo:
        """Describe one volume. `NotFound`."""

    @abstractmethod
    def list(self) -> Iterator[VolumeInfo]:
        """Give every volume of this driver."""
