"""The small init of `--init`, which passes signals on and reaps the container's orphans: a static program of the host's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sampan.api.errors import Unsupported

INSIDE = "/sbin/docker-init"
"""Where it is bound in the container, as Docker does."""

PROGRAMS = ("docker-init", "tini-static")
"""Names on PATH: Docker's own, and Debian's. `tini` alone would need the host's libraries."""


def find_init(configured: Path | None) -> Path:
    """Give the program: the one of `init-path`, else the first on PATH. Raises `Unsupported` if there is none that can be run."""
    found = str(configured) if configured is not None else next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        raise Unsupported(
            f"run an init process (--init): none of {' and '.join(PROGRAMS)} is on PATH",
            remedy="apt-get install tini, or set init-path to a static init",
        )
    path = Path(found).resolve()
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise Unsupported(f"run an init process (--init): {found} is no program", remedy="set init-path to a static init")
    return path


def under_init(command: list[str]) -> list[str]:
    """Give the command that runs `command` under the init."""
    return [INSIDE, "--", *command]
