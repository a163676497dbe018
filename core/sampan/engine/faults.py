"""What `fsck` finds: one fault each, with the remedy, and how it is mended where nothing is lost by that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from sampan.api.storage import Damage

Mend = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Fault:
    """Damage in one area (`blobs`, `storage overlayfs`, …). `mend` does what the remedy of a repairable damage says."""

    area: str
    damage: Damage
    mend: Mend | None = field(default=None, compare=False)


def mendable(area: str, subject: str, problem: str, remedy: str, mend: Mend) -> Fault:
    """Give a fault that can be mended."""
    return Fault(area, Damage(subject, problem, remedy, repairable=True), mend)


def lasting(area: str, subject: str, problem: str, remedy: str) -> Fault:
    """Give a fault that only a person can mend."""
    return Fault(area, Damage(subject, problem, remedy, repairable=False))


@dataclass(frozen=True, slots=True)
class Look:
    """What one look over an area gave, and what it could not judge, with the reason."""

    faults: tuple[Fault, ...]
    skipped: tuple[str, ...] = ()
