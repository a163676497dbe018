"""Where the files of a log lie: the current one, and `.1`, `.2`, … from newer to older."""

from __future__ import annotations

from pathlib import Path

from sampan.api.logs import LogContext


def current(context: LogContext) -> Path:
    """Give the path of the file that is written now."""
    return context.directory / f"{context.container_id}-json.log"


def rotated(path: Path, number: int) -> Path:
    """Give the path of an older file; 0 is the current one."""
    return path.with_name(f"{path.name}.{number}") if number else path


def existing(path: Path) -> list[Path]:
    """Give all files that there are, newest first. A gap in the numbers is what a crash in a rotation
    leaves.
    """
    numbers = []
    for other in path.parent.glob(f"{path.name}.*"):
        suffix = other.name[len(path.name) + 1 :]
        if suffix.isdecimal():
            numbers.append(int(suffix))
    return [path, *(rotated(path, number) for number in sorted(numbers))]
