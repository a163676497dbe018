"""The daemon, the zygote or the shim is gone: what runs goes on, and what ended is known."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ground.launch import Harness, attach, eventually, harness, open_fds
from sampan.api.errors import Unavailable
from sampan.launch.client import Shim, Zygote
from sampan.launch.records import read_exit

# 2000 numbered lines, with a pause after every 20 so that the daemon's absence falls in the midst of them.
COUNT = "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); [ $((i % 20)) = 0 ] && sleep 0.01; done; exit 5"
LINES = b"".join(b"%d\n" % number for number in range(2000))


async def kill_daemon(running: Harness, shim: Shim) -> None:
    """Drop all that a killed daemon's kernel would: every connection and the zygote."""
    await shim.close()
    await running.zygote.close()
    running.shims.remove(shim)


async def reconnect(running: Harness, name: str = "c") -> Shim:
    shim = await Shim.connect(running.directory / name / "state")
    running.shims.append(shim)
    return shim


def test_a_container_outlives_the_daemon_with_no_hole_in_its_log(tmp_path: Path) -> None:
    async def test() -> None:
        async with asyncio.timeout(60), harness(tmp_path) as running:
            first = await running.spawn("sh", "-c", COUNT)
            streams = await attach(first)
            launched = await first.launch()
            await streams.read(until=b"\n100\n")
            streams.close()
            await kill_daemon(running, first)
            shim = await reconnect(running)
            state = await shim.state()
            assert (state.pid, state.started_at_ns) == (launched.pid, launched.started_at_ns)
            assert (await shim.wait()).exit_code == 5
            assert await running.logged() == LINES

    asyncio.run(test())


def test_an_exit_that_nobody_heard_is_found(tmp_path: Path) -> None:
    async def test() -> None:
        async with asyncio.timeout(60), harness(tmp_path) as running:
            first = await running.spawn("sh", "-c", "read a; exit 9", open_stdin=True)
            await first.launch()
            pid = first.pid
            await first.close_stdin()
            await kill_daemon(running, first)
            await eventually(lambda: read_exit(tmp_path / "c") is not None)
            assert (await (await reconnect(running)).wait()).exit_code == 9
            os.kill(pid, signal.SIGKILL)
            await running.shims.pop().closed.wait()
            with pytest.raises(Unavailable):
                await Shim.connect(tmp_path / "c" / "state")
            record = read_exit(tmp_path / "c")
            assert record is not None and record.exit_code == 9

    asyncio.run(test())


def test_the_death_of_a_shim_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        async with asyncio.timeout(60), harness(tmp_path) as running:
            shim = await running.spawn("sleep", "100")
            launched = await shim.launch()
            waiting = asyncio.ensure_future(shim.wait())
            await shim.state()
            os.kill(shim.pid, signal.SIGKILL)
            await shim.closed.wait()
            os.kill(launched.pid, signal.SIGKILL)
            with pytest.raises(Unavailable):
                await waiting
            assert read_exit(tmp_path / "c") is None

    asyncio.run(test())


def test_a_shim_that_was_stopped_is_told_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sampan.launch.client.PATIENCE_S", 0.3)

    async def test() -> None:
        async with asyncio.timeout(60), harness(tmp_path) as running:
            shim = await running.spawn("sleep", "100")
            await shim.launch()
            await kill_daemon(running, shim)
            os.kill(shim.pid, signal.SIGSTOP)
            assert (await (await reconnect(running)).state()).running

    asyncio.run(test())


def test_a_shim_that_says_nothing_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sampan.launch.client.PATIENCE_S", 0.3)
    listen = f"import socket, time; s = socket.socket(1, 5); s.bind('{tmp_path}/shim.sock'); s.listen(); print(flush=True); time.sleep(100)"

    async def test() -> None:
        with subprocess.Popen([sys.executable, "-c", listen], stdout=subprocess.PIPE) as stuck:
            assert stuck.stdout is not None
            stuck.stdout.readline()
            async with asyncio.timeout(30):
                with pytest.raises(Unavailable):
                    await Shim.connect(tmp_path)
            assert stuck.wait(10) == -signal.SIGKILL

    asyncio.run(test())


def test_the_death_of_the_zygote_is_told_and_its_shims_go_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with asyncio.timeout(60), harness(tmp_path) as running:
            shim = await running.spawn("sleep", "100")
            await shim.launch()
            os.kill(running.zygote.pid, signal.SIGKILL)
            await running.zygote.died.wait()
            with pytest.raises(Unavailable):
                await running.spawn("true", name="d")
            assert (await shim.state()).running
            running.zygote = await Zygote.start(["ground.host_runtime"])
            other = await running.spawn("true", name="e")
            await other.launch()
            assert (await other.wait()).exit_code == 0
            await running.zygote.close()

    asyncio.run(test())


def test_a_shim_that_was_never_launched_ends_with_the_daemon(tmp_path: Path) -> None:
    async def test() -> None:
        async with asyncio.timeout(60), harness(tmp_path) as running:
            shim = await running.spawn("true")
            pidfd = os.pidfd_open(shim.pid)
            await shim.close()
            ended = asyncio.Event()
            asyncio.get_running_loop().add_reader(pidfd, ended.set)
            await ended.wait()
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)

    asyncio.run(test())


def test_a_long_state_directory(tmp_path: Path) -> None:
    async def test() -> None:
        deep = tmp_path / ("d" * 120)
        async with asyncio.timeout(60), harness(deep) as running:
            shim = await running.spawn("sleep", "100")
            await shim.launch()
            await shim.close()
            running.shims.clear()
            assert (await (await reconnect(running)).state()).running

    asyncio.run(test())


def test_a_daemon_that_dies_while_the_zygote_imports_makes_no_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The module waits for our word, so that the daemon is gone for sure when the zygote wants to answer."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / "sampan_test_slow.py").write_text(f"open({str(gate)!r}).read()\n")
    monkeypatch.syspath_prepend(tmp_path)

    async def test() -> None:
        async with asyncio.timeout(60):
            starting = asyncio.ensure_future(Zygote.start(["sampan_test_slow"], scratch=tmp_path))
            writer = await asyncio.to_thread(gate.open, "w")  # opens when the zygote reads
            assert list(tmp_path.glob("sampan-zygote-*")), "what a kill leaves lies where the next engine looks"
            before = open_fds(os.getpid())
            starting.cancel()
            await eventually(lambda: open_fds(os.getpid()) < before)  # our end of the socket is closed
            writer.close()
            await asyncio.wait({starting})

    asyncio.run(test())
    assert capfd.readouterr().err == ""

