"""Where the files of a log lie: the current one, and `.1`, `.2`, … from newer to older."""

from __future__ import annotations

from pathlib import Path

from sampan.api.logs import LogContext


def current(context: LogContext) -> str:
    """Give the path of the file that is written now."""
    return f"{context.directory}/{context.container_id}-json.log"


def rotated(path: str, number: int) -> str:
    """Give the path of an older file; 0 is the current one."""
    return f"{path}.{number}" if number else path


def existing(path: Path) -> list[Path]:
    """Give all files that there are, newest first. A gap in the numbers is what a crash in a rotation
    leaves.
    """
    numbers = []
    for other in path.parent.glob(f"{path.name}.*"):
        suffix = other.name[len(path.name) + 1 :]
        if suffix.isdecimal():
            numbers.append(int(suffix))
    return [path, *(Path(rotated(str(path), number)) for number in sorted(numbers))]
