"""The conformance suite of log drivers: subclass it in a test module, name your driver, and run pytest.

    class TestMyLog(LogDriverSuite):
        driver = MyLog
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from sampan.api.errors import InvalidArgument
from sampan.api.logs import LogContext, LogDriver, LogQuery, LogRecord

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


class LogDriverSuite:
    """What every log driver that can be read back must do."""

    driver: ClassVar[type[LogDriver]]
    options: ClassVar[Mapping[str, str]] = {}

    @pytest.fixture
    def context(self, tmp_path: Path) -> LogContext:
        """A fresh log."""
        return LogContext("0123456789ab", str(tmp_path / "logs"), self.options)

    def read(self, context: LogContext, query: LogQuery | None = None) -> list[LogRecord]:
        """Read to the end."""

        async def collect() -> list[LogRecord]:
            return [record async for record in self.driver.read(context, query or LogQuery())]

        return asyncio.run(collect())

    def write(self, context: LogContext, *records: LogRecord) -> None:
        """Write with a writer of its own."""
        writer = self.driver.open_writer(context)
        writer.write(list(records))
        writer.close()

    def test_probe(self, tmp_path: Path) -> None:
        """The driver works on this host."""
        assert self.driver.probe(tmp_path).supported

    def test_unknown_option_is_refused(self) -> None:
        """A misspelt option is an error at create."""
        with pytest.raises(InvalidArgument):
            self.driver.validate({"no-such-option": "1"})

    def test_own_options_are_valid(self) -> None:
        """The options of this suite are."""
        self.driver.validate(self.options)

    def test_what_was_written_is_read(self, context: LogContext) -> None:
        """Bytes, stream, time and partial records come back, in order, as soon as they are written."""
        records = [
            LogRecord("stdout", START + 1, b"plain\n"),
            LogRecord("stderr", START + 2, 'quotes " \\ <&> \x01\t\r ü €\u2028 😀\n'.encode()),
            LogRecord("stdout", START + 123_456_000, b"a piece", True),
            LogRecord("stdout", START + 2 * SECOND, b"\n"),
            LogRecord("stdout", START + 2 * SECOND, b"x" * 16000 + b"\n"),
        ]
        writer = self.driver.open_writer(context)
        writer.write(records)
        assert self.read(context) == records
        writer.close()
        writer.close()

    def test_many_lines_in_one_record_are_read_one_by_one(self, context: LogContext) -> None:
        """A writer may get many whole lines at once."""
        self.write(context, LogRecord("stdout", START, b'one\n\n"three"\n'))
        assert [record.data for record in self.read(context)] == [b"one\n", b"\n", b'"three"\n']

    def test_a_second_writer_appends(self, context: LogContext) -> None:
        """A container that starts again goes on in its log."""
        self.write(context, LogRecord("stdout", START, b"one\n"))
        self.write(context, LogRecord("stdout", START + 1, b"two\n"))
        assert [record.data for record in self.read(context)] == [b"one\n", b"two\n"]

    def test_empty(self, context: LogContext) -> None:
        """A log without a line is empty."""
        self.write(context)
        assert self.read(context) == []

    @pytest.mark.parametrize("tail", [0, 1, 3, 1000, 5000])
    def test_tail(self, context: LogContext, tail: int) -> None:
        """The last lines, or all if there are fewer."""
        lines = [b"%d %s\n" % (number, b"x" * (number % 700)) for number in range(2000)]
        self.write(context, *(LogRecord("stdout", START + n, line) for n, line in enumerate(lines)))
        found = [record.data for record in self.read(context, LogQuery(tail=tail))]
        assert found == lines[len(lines) - min(tail, len(lines)) :]

    def test_since_and_until(self, context: LogContext) -> None:
        """Both bounds belong to the range."""
        self.write(context, *(LogRecord("stdout", START + n * SECOND, b"%d\n" % n) for n in range(10)))
        query = LogQuery(since_ns=START + 3 * SECOND, until_ns=START + 5 * SECOND)
        assert [record.data for record in self.read(context, query)] == [b"3\n", b"4\n", b"5\n"]

    def test_a_reader_that_does_not_follow_ends_where_the_log_ended(self, context: LogContext) -> None:
        """What is written while it reads is not its business: a flood would keep it for ever."""

        async def read() -> list[bytes]:
            writer = self.driver.open_writer(context)
            writer.write([LogRecord("stdout", START, b"before\n")])
            found = []
            async for record in self.driver.read(context, LogQuery()):
                found.append(record.data)
                writer.write([LogRecord("stdout", START + 1, b"%s\n" % (b"x" * 10_000))] * 20)
            writer.close()
            return found

        assert asyncio.run(read()) == [b"before\n"]

    def test_follow_gets_all_and_ends(self, context: LogContext) -> None:
        """A follower gets what was there, what comes, and ends after the last record when it is told."""
        count = 3000

        async def follow() -> list[bytes]:
            ended = asyncio.Event()
            writer = self.driver.open_writer(context)
            writer.write([LogRecord("stdout", START, b"0\n")])

            async def go_on() -> None:
                for number in range(1, count):
                    writer.write([LogRecord("stdout", START + number, b"%d\n" % number)])
                    if number % 50 == 0:
                        await asyncio.sleep(0)
                writer.close()
                ended.set()

            writing = asyncio.ensure_future(go_on())
            records = self.driver.read(context, LogQuery(follow=True, ended=ended))
            found = [record.data async for record in records]
            await writing
            return found

        assert asyncio.run(asyncio.wait_for(follow(), 30)) == [b"%d\n" % number for number in range(count)]
