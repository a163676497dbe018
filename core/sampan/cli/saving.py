"""An answer's body into a file, or onto standard output."""

from __future__ import annotations

import os
from pathlib import Path

from sampan.cli.failure import CliError
from sampan.cli.session import write_all
from sampan.cli.transport import Response


def refuse_terminal(path: str | None) -> None:
    """Raise `CliError` if an archive would go onto a terminal."""
    if path is None and os.isatty(1):
        raise CliError("cowardly refusing to save to a terminal", remedy="Use the -o flag or redirect")


def save_body(response: Response, path: str | None) -> None:
    """Write the body to `path`, whole or not at all; to standard output for None."""
    if path is None:
        for chunk in response.chunks():
            write_all(1, chunk)
        return
    part = Path(f"{path}.sampan-part")
    try:
        with part.open("wb") as out:
            for chunk in response.chunks():
                out.write(chunk)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
