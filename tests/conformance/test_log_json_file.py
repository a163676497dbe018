from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from sampan.api.errors import InvalidArgument, Unsupported
from sampan.api.logs import LogContext, LogQuery, LogRecord
from sampan.testing.logs import START, LogDriverSuite
from sampan_log_json_file.driver import JsonFile
from sampan_log_json_file.encoding import parse_time


class TestJsonFile(LogDriverSuite):
    driver = JsonFile

    def path(self, context: LogContext) -> Path:
        return Path(context.directory, f"{context.container_id}-json.log")

    def test_the_file_is_dockers(self, context: LogContext) -> None:
        context = LogContext(context.container_id, context.directory, {}, {"tag": "t"})
        self.write(context, LogRecord("stderr", START + 120_000_000, b"a<b\t\xff\n"))
        assert self.path(context).read_bytes() == (
            b'{"log":"a\\u003cb\\u0009\xef\xbf\xbd\\n","stream":"stderr","attrs":{"tag":"t"},'
            b'"time":"2023-11-14T22:13:20.12Z"}\n'
        )

    def test_a_torn_last_line_is_cut_off(self, context: LogContext) -> None:
        self.write(context, LogRecord("stdout", START, b"one\n"))
        with self.path(context).open("ab") as file:
            file.write(b'{"log":"torn')
        assert [r.data for r in self.read(context)] == [b"one\n"]
        self.write(context, LogRecord("stdout", START, b"two\n"))
        assert [r.data for r in self.read(context)] == [b"one\n", b"two\n"]
        for line in self.path(context).read_bytes().splitlines():
            json.loads(line)

    @pytest.mark.parametrize(
        "options",
        [{"max-size": "0"}, {"max-size": "big"}, {"max-file": "0"}, {"max-file": "x"}, {"compress": "maybe"}, {"labels-regex": "("}, {"env-regex": "*"}],
    )
    def test_bad_options(self, options: dict[str, str]) -> None:
        with pytest.raises(InvalidArgument):
            JsonFile.validate(options)

    def test_compress_is_refused(self) -> None:
        with pytest.raises(Unsupported):
            JsonFile.validate({"compress": "true"})

    def test_times(self) -> None:
        assert parse_time("1970-01-01T00:00:00Z") == 0
        assert parse_time("2024-02-29T23:59:59.5Z") == 1_709_251_199_500_000_000
        with pytest.raises(ValueError):
            parse_time("yesterday")

    def test_rotation_keeps_max_file_files(self, context: LogContext) -> None:
        context = LogContext(context.container_id, context.directory, {"max-size": "1k", "max-file": "3"})
        writer = JsonFile.open_writer(context)
        for number in range(100):
            writer.write([LogRecord("stdout", START + number, b"%03d\n" % number)])
        writer.close()
        assert len(os.listdir(context.directory)) == 3
        found = [int(r.data) for r in self.read(context)]
        assert found == list(range(found[0], 100)) and len(found) > 20
        assert [int(r.data) for r in self.read(context, LogQuery(tail=20))] == list(range(80, 100))

    def test_one_file_starts_anew(self, context: LogContext) -> None:
        context = LogContext(context.container_id, context.directory, {"max-size": "1k"})
        writer = JsonFile.open_writer(context)
        for number in range(100):
            writer.write([LogRecord("stdout", START + number, b"%03d\n" % number)])
        writer.close()
        assert os.listdir(context.directory) == [self.path(context).name]
        assert self.read(context)[-1].data == b"099\n"

    def test_a_crash_in_a_rotation_loses_nothing(self, context: LogContext) -> None:
        self.write(context, LogRecord("stdout", START, b"old\n"))
        self.path(context).rename(self.path(context).with_suffix(".log.2"))
        self.write(context, LogRecord("stdout", START, b"new\n"))
        assert [r.data for r in self.read(context)] == [b"old\n", b"new\n"]

    def test_a_follower_crosses_rotations(self, context: LogContext) -> None:
        context = LogContext(context.container_id, context.directory, {"max-size": "10k", "max-file": "50"})

        async def follow() -> list[int]:
            ended = asyncio.Event()
            writer = JsonFile.open_writer(context)

            async def go_on() -> None:
                for number in range(3000):
                    writer.write([LogRecord("stdout", START + number, b"%d\n" % number)])
                    if number % 70 == 0:
                        await asyncio.sleep(0)
                writer.close()
                ended.set()

            writing = asyncio.ensure_future(go_on())
            found = [int(r.data) async for r in JsonFile.read(context, LogQuery(follow=True, ended=ended))]
            await writing
            return found

        assert asyncio.run(asyncio.wait_for(follow(), 30)) == list(range(3000))

    def test_a_reader_leaves_no_descriptor(self, context: LogContext) -> None:
        self.write(context, LogRecord("stdout", START, b"one\n"))

        async def some() -> None:
            records = JsonFile.read(context, LogQuery(follow=True))
            assert (await anext(records)).data == b"one\n"
            await records.aclose()  # type: ignore[attr-defined]

        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            asyncio.run(some())
        assert len(os.listdir("/proc/self/fd")) == before
