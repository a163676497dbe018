"""Many clients of one shim at once: quick, slow and broken ones, and many processes beside the first."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal

from ground.launch import Attached, Harness, Run, attach, eventually, open_fds
from sampan.launch.client import Shim
from sampan.launch.protocol import ExecConfig

COUNT = "i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); done"


def lines(count: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in range(count))


async def connect(running: Harness, name: str = "c") -> Shim:
    """Connect as one more daemon does; the harness's own connection deletes the container."""
    return await Shim.connect(running.directory / name / "state")


def test_clients_that_come_and_go_get_each_byte_from_where_they_came(run: Run) -> None:
    """What each has read is a piece of the output without a hole, up to where it left; the log has it all, in order."""
    chance = random.Random(21)

    async def come_and_go(shim: Shim, output: bytes) -> None:
        await asyncio.sleep(chance.random() / 5)
        streams = await attach(shim, "stdout")
        wanted = chance.choice([1, 5_000, 50_000, 10_000_000])
        seen = b""
        while len(seen) < wanted:
            part = await asyncio.get_running_loop().sock_recv(streams.ours["stdout"], chance.choice([100, 65536]))
            if not part:
                break
            seen += part
        streams.close()
        assert seen in output

    async def test(running: Harness) -> None:
        output = lines(40_000)
        shim = await running.spawn("sh", "-c", COUNT.format(lines=40_000))
        whole = await attach(shim, "stdout")
        before = open_fds(shim.pid)
        await shim.launch()
        _, read, *_ = await asyncio.gather(
            shim.wait(), whole.read(), *(come_and_go(shim, output) for _ in range(60))
        )
        assert read == output
        assert await running.logged() == output
        whole.close()
        await eventually(lambda: open_fds(shim.pid) < before)

    run(test)


def test_a_client_that_reads_nothing_holds_the_others_back_until_it_goes(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("sh", "-c", COUNT.format(lines=100_000))
        stuck, whole = await attach(shim, "stdout"), await attach(shim, "stdout")
        await shim.launch()
        reading = asyncio.ensure_future(whole.read())
        done, _ = await asyncio.wait({reading}, timeout=0.5)
        assert not done
        stuck.close()
        assert await reading == lines(100_000)
        whole.close()

    run(test)


def test_typing_of_many_goes_in_chunk_by_chunk(run: Run) -> None:
    """Lines that are written at once arrive whole, however many write."""

    async def test(running: Harness) -> None:
        shim = await running.spawn("cat", open_stdin=True)
        output = await attach(shim, "stdout")
        typists = [await attach(shim, "stdin") for _ in range(20)]
        await shim.launch()

        async def type_lines(streams: Attached, who: int) -> None:
            for number in range(50):
                await streams.send(b"%02d %02d\n" % (who, number))
                await asyncio.sleep(0)

        await asyncio.gather(*(type_lines(streams, who) for who, streams in enumerate(typists)))
        seen = b""
        while seen.count(b"\n") < 1000:
            seen += await asyncio.get_running_loop().sock_recv(output.ours["stdout"], 65536)
        for who in range(20):
            own = [line for line in seen.splitlines() if line.startswith(b"%02d " % who)]
            assert own == [b"%02d %02d" % (who, number) for number in range(50)]
        await shim.close_stdin()
        assert (await shim.wait()).exit_code == 0
        for streams in (output, *typists):
            streams.close()

    run(test)


def test_a_storm_of_resizes_from_several_daemons(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("sh", "-c", "trap '' WINCH; read a; stty size", tty=True, open_stdin=True)
        streams = await attach(shim, "stdin", "stdout")
        others = [await connect(running) for _ in range(5)]
        storm = [other.resize(1 + number % 100, 1 + number % 200) for number in range(300) for other in others]
        await asyncio.gather(shim.launch(), *storm)
        await shim.resize(55, 66)
        await streams.send(b"\n")
        assert b"55 66" in await streams.read(until=b"66")
        assert (await shim.wait()).exit_code == 0
        await asyncio.gather(*(other.close() for other in others))
        streams.close()

    run(test)


def test_many_execs_at_once_each_with_its_own_status(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("sleep", "1000")
        await shim.launch()
        other = await connect(running)
        before = open_fds(shim.pid)

        async def one(number: int) -> int:
            config = ExecConfig(f"e{number}", {"args": ["sh", "-c", f"echo {number}; exit {number}"]})
            streams = Attached()
            await shim.exec(config, **streams.fds("stdout"))
            streams.handed_over()
            assert await streams.read() == b"%d\n" % number
            streams.close()
            told = await asyncio.gather(shim.wait_exec(config.id), other.wait_exec(config.id))
            return {record.exit_code for record in told}.pop()

        assert await asyncio.gather(*(one(number) for number in range(60))) == list(range(60))
        await eventually(lambda: open_fds(shim.pid) == before)
        await other.close()

    run(test)


def test_daemons_that_come_and_die_leave_nothing_in_the_shim(run: Run) -> None:
    """Each asks for what will be answered much later, and is gone."""

    async def test(running: Harness) -> None:
        shim = await running.spawn("sleep", "1000")
        await shim.launch()
        before = open_fds(shim.pid)
        for _ in range(50):
            other = await connect(running)
            waiting = [asyncio.ensure_future(wait) for wait in (other.wait(), other.wait_oom(0))]
            await other.state()
            await other.close()
            await asyncio.wait(waiting)
        await eventually(lambda: open_fds(shim.pid) == before)
        await shim.signal(signal.SIGKILL)
        assert (await shim.wait()).exit_code == 137

    run(test)


def test_a_full_disk_blocks_nobody_and_loses_no_line_that_could_be_read(run: Run) -> None:
    """The limit on the shim's files stands for the disk. When there is room again, lines are logged again."""

    async def test(running: Harness) -> None:
        script = "echo before; read a; seq 1 50000; read b; echo after; exit 3"
        shim = await running.spawn("sh", "-c", script, open_stdin=True)
        streams = await attach(shim, "stdin", "stdout")
        await shim.launch()
        await streams.read(until=b"before\n")
        size = (running.directory / "c" / "c-json.log").stat().st_size
        unlimited = resource.prlimit(shim.pid, resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))
        await streams.send(b"\n")
        await streams.read(until=b"\n50000\n")
        assert await running.logged() == b"before\n"
        resource.prlimit(shim.pid, resource.RLIMIT_FSIZE, unlimited)
        await streams.send(b"\n")
        record = await shim.wait()
        assert record.exit_code == 3
        assert "write the log" in record.error
        assert await running.logged() == b"before\nafter\n"
        streams.close()

    run(test)


def test_a_killed_shim_has_logged_what_could_be_read(run: Run) -> None:
    """A line that a reader of the log has seen is still there after the kill, and the next writer cuts off a torn end."""

    async def test(running: Harness) -> None:
        config = running.config("sh", "-c", COUNT.format(lines=200_000), runtime_config={"recover": True})
        shim = await running.zygote.spawn(config)
        launched = await shim.launch()
        log = running.directory / "c" / "c-json.log"
        await eventually(lambda: log.stat().st_size > 500_000)
        os.kill(shim.pid, signal.SIGKILL)
        await shim.closed.wait()
        seen = await running.logged()
        assert lines(200_000).startswith(seen)
        with log.open("ab") as file:
            file.write(b'{"log":"torn')
        successor = await running.zygote.spawn(config)
        assert await running.logged() == seen
        await successor.close()
        os.killpg(launched.pid, signal.SIGKILL)

    run(test)
