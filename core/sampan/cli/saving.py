"""An answer's body into a file, or onto standard output."""

from __future__ import annotations

from pathlib import Path

from sampan.cli.session import write_all
from sampan.cli.transport import Response


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
