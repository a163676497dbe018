from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from ground.launch import Attached, Harness, Run, attach, eventually, open_fds
from sampan.api.errors import Conflict, InvalidArgument, NotFound, SampanError, System, Unavailable
from sampan.launch.client import Shim
from sampan.launch.protocol import ClassRef, ExecConfig, ExitRecord
from sampan.launch.records import read_exit


async def execute(shim: Shim, config: ExecConfig, *names: str) -> Attached:
    streams = Attached()
    await shim.exec(config, **streams.fds(*names))
    streams.handed_over()
    return streams


def test_output_goes_to_the_log_and_to_whoever_attached_before(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("sh", "-c", "echo out; echo err >&2; exit 3")
        first, second = await attach(shim), await attach(shim)
        launched = await shim.launch()
        assert [span.phase for span in launched.spans] == ["fork", "create", "save-handle", "start"]
        waits = await asyncio.gather(*(shim.wait() for _ in range(5)))
        assert {record.exit_code for record in waits} == {3}
        assert read_exit(running.directory / "c") == waits[0]
        for streams in (first, second):
            assert await streams.read("stdout") == b"out\n"
            assert await streams.read("stderr") == b"err\n"
            streams.close()
        assert sorted((await running.logged()).splitlines()) == [b"err", b"out"]
        late = await attach(shim)
        assert await late.read() == b""
        late.close()

    run(test)


def test_a_megabyte_passes_stdin_intact_and_ends(run: Run) -> None:
    async def test(running: Harness) -> None:
        data = b"".join(b"%07d\n" % number for number in range(131072))
        shim = await running.spawn("cat", open_stdin=True)
        streams = await attach(shim, stdin_eof_closes=True)
        await shim.launch()

        async def type_all() -> None:
            await streams.send(data)
            streams.end_input()

        _, output = await asyncio.gather(type_all(), streams.read())
        assert output == data
        assert (await shim.wait()).exit_code == 0
        assert await running.logged() == data
        streams.close()

    run(test)


def test_an_end_that_closes_nothing_leaves_stdin_open(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("cat", open_stdin=True)
        first = await attach(shim)
        await shim.launch()
        await first.send(b"one\n")
        first.end_input()
        assert await first.read(until=b"\n") == b"one\n"
        second = await attach(shim)
        await second.send(b"two\n")
        assert await second.read(until=b"\n") == b"two\n"
        await shim.close_stdin()
        assert (await shim.wait()).exit_code == 0
        first.close()
        second.close()

    run(test)


def test_terminal_and_its_size(run: Run) -> None:
    async def test(running: Harness) -> None:
        script = "read a; stty size; read b; stty size; tty -s && echo tty"
        shim = await running.spawn("sh", "-c", script, tty=True, open_stdin=True, console_size=(11, 22))
        streams = await attach(shim, "stdin", "stdout")
        await shim.launch()
        await streams.send(b"x\n")
        assert b"11 22" in await streams.read(until=b"22")
        await shim.resize(33, 44)
        await streams.send(b"x\n")
        assert b"33 44" in await streams.read(until=b"tty")
        assert (await shim.wait()).exit_code == 0
        streams.close()

    run(test)


def test_a_slow_stream_holds_the_process_back_and_loses_nothing(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("sh", "-c", "head -c 8000000 /dev/zero | tr '\\0' 'a'; echo done >&2")
        slow = await attach(shim)
        await shim.launch()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(shim.wait())), 0.5)
        log = running.directory / "c" / "c-json.log"
        assert log.stat().st_size < 4_000_000
        assert len(await slow.read()) == 8_000_000
        assert (await shim.wait()).exit_code == 0
        slow.close()

    run(test)


def test_a_stream_that_breaks_is_dropped_alone(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("sh", "-c", "yes | head -c 3000000")
        broken, whole = await attach(shim), await attach(shim)
        await shim.launch()
        await broken.read(until=b"y\n")
        broken.close()
        assert await whole.read() == b"y\n" * 1_500_000
        assert (await shim.wait()).exit_code == 0
        whole.close()

    run(test)


def test_attaching_leaves_no_descriptor(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("cat", open_stdin=True)
        await shim.launch()
        before = open_fds(shim.pid)
        for _ in range(100):
            (await attach(shim)).close()
        await eventually(lambda: open_fds(shim.pid) == before)
        for number in range(20):
            streams = await execute(shim, ExecConfig(f"e{number}", {"args": ["true"]}))
            await shim.wait_exec(f"e{number}")
            streams.close()
        await eventually(lambda: open_fds(shim.pid) == before)

    run(test)


def test_exec(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("sleep", "100")
        await shim.launch()
        config = ExecConfig("e", {"args": ["sh", "-c", "cat; echo err >&2; exit 7"]}, open_stdin=True)
        streams = await execute(shim, config)
        assert list((await shim.state()).execs) == ["e"]
        await streams.send(b"typed")
        streams.end_input()
        assert await streams.read() == b"typed"
        assert await streams.read("stderr") == b"err\n"
        assert (await shim.wait_exec("e")).exit_code == 7
        assert (await shim.wait_exec("e")).exit_code == 7
        assert await running.logged() == b""
        streams.close()
        with pytest.raises(NotFound, match="exec no-such-program"):
            await shim.exec(ExecConfig("f", {"args": ["no-such-program"]}))
        with pytest.raises(NotFound):
            await shim.wait_exec("f")

    run(test)


def test_exec_on_a_terminal(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("sleep", "100")
        await shim.launch()
        config = ExecConfig("e", {"args": ["sh", "-c", "read a; stty size"]}, True, True, (5, 6))
        streams = await execute(shim, config, "stdin", "stdout")
        await streams.send(b"\n")
        assert b"5 6" in await streams.read()
        assert (await shim.wait_exec("e")).exit_code == 0
        streams.close()

    run(test)


def test_a_background_child_that_holds_the_output_does_not_hold_the_exec(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("sleep", "100")
        await shim.launch()
        streams = await execute(shim, ExecConfig("e", {"args": ["sh", "-c", "sleep 30 & echo $!"]}))
        assert (await asyncio.wait_for(shim.wait_exec("e"), 10)).exit_code == 0
        assert (await streams.read()).strip().isdigit()
        streams.close()

    run(test)


def test_signals(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("sleep", "100")
        with pytest.raises(Conflict):
            await shim.signal(signal.SIGTERM)
        await shim.launch()
        with pytest.raises(InvalidArgument):
            await shim.signal(999)
        await shim.signal(0 + signal.SIGKILL)
        assert (await shim.wait()).exit_code == 137
        with pytest.raises(Conflict):
            await shim.signal(signal.SIGTERM)

    run(test)


def test_driver_operations(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("sleep", "100")
        launched = await shim.launch()
        await shim.pause()
        assert (await shim.state()).paused
        await shim.resume()
        assert not (await shim.state()).paused
        assert (await shim.stats()).memory.limit == 3
        assert await shim.processes() == (launched.pid,)
        with pytest.raises(Conflict, match="limits"):
            await shim.update({"memory": {"limit": 1}})
        await shim.signal(signal.SIGTERM, everyone=True)
        assert (await shim.wait()).exit_code == 143

    run(test)


def test_sigpipe_is_not_ignored_in_the_container(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("sh", "-c", "(yes; echo $? >&2) | head -n 1")
        await shim.launch()
        assert (await shim.wait()).exit_code == 0
        assert b"141" in await running.logged()

    run(test)


def test_a_failing_setup_is_told(run: Run) -> None:
    async def test(running: Harness) -> None:
        with pytest.raises(NotFound, match="no_such_module"):
            await running.zygote.spawn(running.config("true", runtime=ClassRef("no_such_module", "X")))
        with pytest.raises(InvalidArgument, match="max-size"):
            await running.zygote.spawn(running.config("true", name="d", log_options={"max-size": "x"}))

    run(test)


def test_a_cancelled_wait_leaves_the_others(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("sleep", "100")
        await shim.launch()
        waits = [asyncio.ensure_future(shim.wait()) for _ in range(3)]
        await shim.state()
        waits[0].cancel()
        await shim.signal(signal.SIGKILL)
        assert [(await wait).exit_code for wait in waits[1:]] == [137, 137]

    run(test)


def test_a_long_configuration_travels(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("true", runtime_config={"long": "x" * 1_000_000})
        await shim.launch()
        assert (await shim.wait()).exit_code == 0

    run(test)


@pytest.mark.parametrize("operation", ["create", "start"])
def test_a_driver_that_raises(run: Run, operation: str) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("true", runtime_config={"fail": operation})
        streams = await attach(shim)
        with pytest.raises(System, match="a bug of the driver"):
            await shim.launch()
        assert await streams.read() == b""
        streams.close()
        assert "a bug of the driver" in (running.directory / "c" / "state" / "shim.log").read_text()

    run(test)


def test_a_driver_that_hangs_is_ended_and_holds_nobody(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("sleep", "100", runtime_config={"hang": "pause"}, driver_timeout_s=0.5)
        await shim.launch()
        hanging = asyncio.ensure_future(shim.pause())
        assert (await shim.state()).running
        with pytest.raises(SampanError, match="did not answer in time"):
            await hanging

    run(test)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_driver_removes_the_container_without_being_asked(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("cat", open_stdin=True)
        await shim.launch()
        await shim.close_stdin()
        assert (await shim.wait()).exit_code == 0
        await eventually(lambda: not (running.directory / "c" / "state" / "runtime" / "gate").exists())
        await shim.delete()

    run(test)


def test_a_removal_that_fails_is_told_when_asked_for_and_can_be_asked_again(run: Run) -> None:
    async def test(running: Harness) -> None:
        trap = running.directory / "c" / "state" / "runtime" / "gate"
        shim = await running.spawn("cat", open_stdin=True)
        await shim.launch()
        trap.unlink()
        trap.mkdir()  # the driver can't unlink it
        await shim.close_stdin()
        assert (await shim.wait()).error == ""
        for _ in range(2):
            with pytest.raises(System, match="a directory"):
                await shim.delete()
        trap.rmdir()
        await shim.delete()

    run(test)


def test_an_exit_is_told_while_the_driver_still_removes(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("true", runtime_config={"hang": "delete"}, driver_timeout_s=2)
        await shim.launch()
        record = await shim.wait()
        assert read_exit(running.directory / "c") == record
        with pytest.raises(Unavailable, match="delete container c: the runtime driver did not answer in time"):
            await shim.delete()
        running.shims.clear()
        os.kill(shim.pid, signal.SIGKILL)
        await shim.closed.wait()

    run(test)


@pytest.mark.parametrize("misbehaviour", ["fail", "hang"])
def test_an_exit_is_told_though_nobody_knows_whether_memory_ran_out(run: Run, misbehaviour: str) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("true", runtime_config={misbehaviour: "oom_killed"}, driver_timeout_s=0.5)
        await shim.launch()
        record = await shim.wait()
        assert (record.exit_code, record.oom_killed) == (0, False)
        assert "ask for the end of container c" in record.error
        await shim.delete()

    run(test)


def test_a_launch_whose_waiting_child_was_killed_forks_another(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("true")
        await eventually(lambda: bool(children(shim.pid)))
        (waiting,) = children(shim.pid)
        os.kill(waiting, signal.SIGKILL)
        await eventually(lambda: not children(shim.pid))
        await shim.launch()
        assert (await shim.wait()).exit_code == 0

    run(test)


def test_a_shim_deleted_before_the_launch_has_ended_the_waiting_child(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("touch", str(running.directory / "launched"))
        await eventually(lambda: bool(children(shim.pid)))
        (waiting,) = children(shim.pid)
        await shim.delete()
        assert not Path(f"/proc/{waiting}").exists()
        assert not (running.directory / "launched").exists()

    run(test)


def test_exit_record_as_json(tmp_path: Path) -> None:
    record = ExitRecord(137, True, 5, "why")
    (tmp_path / "exit.json").write_text(json.dumps(record.to_data()))
    assert read_exit(tmp_path) == record
    assert read_exit(tmp_path / "none") is None
