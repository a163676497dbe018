"""The log contract: where the lines of a container go. The writer runs in the container's shim.

This module and a log driver's `driver.py` import no pydantic: they are loaded into every shim.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sampan.api.driver import Driver

if TYPE_CHECKING:
    import asyncio


@dataclass(frozen=True, slots=True)
class LogContext:
    """What a writer or reader gets: the container, its directory for logs, and the options of `--log-opt`.

    The directory is a string: what a writer does with `pathlib` is memory that its shim has to itself. `attributes` are what
    the options `labels`, `env` and `tag` chose of the container; a driver that can keeps them with each record.
    """

    container_id: str
    directory: str
    options: Mapping[str, str]
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One piece of output. `stream` is `stdout` or `stderr`; `time_ns` since the epoch; `partial`: the line
    goes on.

    `data` is a whole line with its newline, or at most 16 KiB of one. To a writer it may also be many whole
    lines that were
    read at the same moment, so that nothing is done line by line that can be done at once; a reader gives
    each line by itself.
    """

    stream: str
    time_ns: int
    data: bytes
    partial: bool = False


class LogWriter:
    """Writes one container's log. A record counts as acknowledged once it can be read back."""

    @abstractmethod
    def write(self, records: list[LogRecord]) -> None:
        """Append the records with as few system calls as possible. Raises `OSError` on a full disk."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file. Idempotent."""


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which records a reader wants. Times in nanoseconds since the epoch; `tail` None is all; `follow`
    waits for more.

    `ended` is set when no more will be written: a reader that follows gives what is there and ends.
    """

    since_ns: int = 0
    until_ns: int = 0
    tail: int | None = None
    follow: bool = False
    ended: asyncio.Event | None = None


class LogDriver(Driver):
    """A kind of log, version 1.0. All methods are class methods: it keeps no state of its own."""

    @classmethod
    @abstractmethod
    def validate(cls, options: Mapping[str, str]) -> None:
        """Refuse unknown or malformed options with `InvalidArgument`. Called at create."""

    @classmethod
    @abstractmethod
    def open_writer(cls, context: LogContext) -> LogWriter:
        """Open the log for appending, after a crash too: a torn last record is completed or cut off."""

    @classmethod
    def read(cls, context: LogContext, query: LogQuery) -> AsyncIterator[LogRecord]:
        """Give records, oldest first. Raises `Unsupported` if this kind of log cannot be read back."""
        from sampan.api.errors import Unsupported

        raise Unsupported(f"read logs of {context.container_id}: the log driver {cls.name!r} does not support reading")
