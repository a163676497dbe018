"""Which extended attributes a layer carries, in and out."""

from __future__ import annotations

OVERLAYS_OWN = "trusted.overlay."
"""What these begin with commands overlayfs: a layer that has one is refused, and none is written."""

ACL_DEFAULT = "system.posix_acl_default"


def is_carried(name: str) -> bool:
    """Tell whether a layer carries an attribute: `user.*`, `trusted.*` but overlay's own, file capabilities and ACLs.

    Labels of security modules belong to the host and are left out.
    """
    if name.startswith("trusted."):
        return not name.startswith(OVERLAYS_OWN)
    return name.startswith("user.") or name in ("system.posix_acl_access", ACL_DEFAULT, "security.capability")
