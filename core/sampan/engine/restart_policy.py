"""When the engine starts a container again: what a client may ask for, in Docker's words."""

from __future__ import annotations

from sampan.api.errors import InvalidArgument
from sampan.api.types import RestartPolicy

NAMES = ("", "no", "always", "unless-stopped", "on-failure")


def check(policy: RestartPolicy) -> None:
    """Raises `InvalidArgument` for a policy that there is not."""
    if policy.name not in NAMES:
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{policy.name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if policy.maximum_retry_count < 0:
        raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")
    if policy.maximum_retry_count and policy.name != "on-failure":
        raise InvalidArgument("invalid restart policy: maximum retry count can only be used with 'on-failure'")


def restarts(policy: RestartPolicy) -> bool:
    """Say whether a container of this policy is ever started again by the engine."""
    return policy.name not in ("", "no")
