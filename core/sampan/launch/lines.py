"""From a stream of bytes to log records: whole lines where there are some, pieces of at most 16 KiB where a
line is longer.
"""

from __future__ import annotations

from sampan.api.logs import LogRecord

MAX_LINE = 16 * 1024
"""Longest piece in one record, in bytes, as Docker's. A longer line becomes several records, all but the
last partial.
"""


class LineFramer:
    """Cuts one stream. What comes after the last newline is held back until its line is whole, too long, or
    the stream ends.
    """

    def __init__(self, stream: str) -> None:
        """`stream` is `stdout` or `stderr`."""
        self._stream = stream
        self._rest = b""

    def feed(self, data: bytes, time_ns: int) -> list[LogRecord]:
        """Take bytes and give the records that they complete. A record may hold many whole lines of the
        same moment.
        """
        data = self._rest + data if self._rest else data
        records = []
        start = 0
        while True:
            newline = data.rfind(b"\n", start, start + MAX_LINE)
            if newline >= 0:
                end, partial = newline + 1, False
            elif len(data) - start > MAX_LINE:
                end, partial = _before_character(data, start + MAX_LINE), True
            else:
                break
            records.append(LogRecord(self._stream, time_ns, data[start:end], partial))
            start = end
        self._rest = data[start:]
        return records

    def finish(self, time_ns: int) -> list[LogRecord]:
        """The stream has ended: give what was held back, a line without its newline."""
        rest, self._rest = self._rest, b""
        return [LogRecord(self._stream, time_ns, rest, True)] if rest else []


def _before_character(data: bytes, end: int) -> int:
    """Move a cut back, at most 3 bytes, so that it does not fall inside a UTF-8 sequence."""
    for cut in range(end, end - 4, -1):
        if data[cut] & 0xC0 != 0x80:
            return cut
    return end
