"""What `--version` says, and which specification this program is written to."""

from __future__ import annotations

from typing import Final

from sampan import __version__

OCI_VERSION: Final = "1.2.0"


def version_text() -> str:
    """Give the version in the form that dockerd and podman read."""
    return f"sampan-runtime version {__version__}\nspec: {OCI_VERSION}\n"
