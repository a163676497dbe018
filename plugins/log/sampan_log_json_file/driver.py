"""The log driver json-file: files that Docker's own tools can read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from sampan.api.driver import Probe
from sampan.api.logs import LogContext, LogDriver, LogQuery, LogRecord, LogWriter
from sampan_log_json_file.options import parse
from sampan_log_json_file.writer import JsonFileWriter


class JsonFile(LogDriver):
    """Lines of JSON in `<directory>/<container>-json.log`, rotated by size."""

    name = "json-file"

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """Works everywhere."""
        return Probe(True)

    @classmethod
    def validate(cls, options: Mapping[str, str]) -> None:
        """Refuse unknown or malformed options, as Docker does, and `compress`, which is not done here."""
        parse(options)

    @classmethod
    def open_writer(cls, context: LogContext) -> LogWriter:
        """Open the log for appending; a torn last line is cut off."""
        return JsonFileWriter(context)

    @classmethod
    def read(cls, context: LogContext, query: LogQuery) -> AsyncIterator[LogRecord]:
        """Give records, oldest first; the last lines are found from the end of the files."""
        from sampan_log_json_file.reader import read  # a shim does without asyncio

        return read(context, query)
