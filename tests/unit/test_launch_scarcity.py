"""What a shim does when there is no room: no descriptor, no process, no inode. It says so, lives on, and forgets nothing."""

from __future__ import annotations

import asyncio
import resource
import shutil
from pathlib import Path

import pytest

from ground.launch import Harness, Run, attach, eventually, open_fds
from sampan.api.errors import System
from sampan.launch import records
from sampan.launch.client import Shim
from sampan.launch.protocol import ExecConfig, ExitRecord
from sampan.linux.mounts import Mount

GIVEN = 256
ATTACHED = GIVEN // 2
"""Clients that attach at once, with three descriptors each, to a shim of a daemon that was given so few."""


def limit_descriptors(shim: Shim, more: int) -> None:
    """Let a shim open so many more descriptors than it has."""
    _, hard = resource.prlimit(shim.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(shim.pid, resource.RLIMIT_NOFILE, (open_fds(shim.pid) + more, hard))


@pytest.mark.parametrize("room", range(1, 12))
def test_an_exec_without_descriptors_is_refused_and_leaves_none(run: Run, room: int) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("sleep", "1000")
        await shim.launch()
        before = open_fds(shim.pid)
        limit_descriptors(shim, room)
        for _ in range(3):
            try:
                await shim.exec(ExecConfig("one", {"args": ["true"]}, open_stdin=True))
            except System as error:
                assert "Too many open files" in str(error)
            else:
                await shim.wait_exec("one")
                break
        limit_descriptors(shim, 1000)
        await eventually(lambda: open_fds(shim.pid) == before)
        await shim.exec(ExecConfig("two", {"args": ["true"]}))
        assert (await shim.wait_exec("two")).exit_code == 0

    run(test)


def test_an_end_is_told_though_there_is_no_room_to_ask_for_its_reason(run: Run) -> None:
    """The driver is asked in a child, over pipes: a shim that ended for want of them would take the exit code along."""

    async def test(running: Harness) -> None:
        shim = await running.spawn("sh", "-c", "read line; exit 7", open_stdin=True)
        await shim.launch()
        stdin = await attach(shim, "stdin", stdin_eof_closes=True)
        limit_descriptors(shim, -open_fds(shim.pid))
        stdin.end_input()
        end = await shim.wait()
        assert end.exit_code == 7
        assert "Too many open files" in end.error
        limit_descriptors(shim, 1000)

    run(test)


def test_a_removal_for_which_there_is_no_room_can_be_asked_for_again(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("sleep", "1000")
        await shim.launch()
        limit_descriptors(shim, -open_fds(shim.pid))
        with pytest.raises(System, match="delete container c: Too many open files"):
            await shim.delete()
        limit_descriptors(shim, 1000)
        await shim.delete()
        assert shim.closed.is_set()

    run(test)


def test_a_daemon_for_which_there_is_no_room_is_let_in_later(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("sleep", "1000")
        await shim.launch()
        limit_descriptors(shim, -open_fds(shim.pid))
        coming = asyncio.create_task(Shim.connect(running.directory / "c" / "state"))
        await eventually(lambda: "Too many open files" in (running.directory / "c" / "state" / "shim.log").read_text())
        assert (await shim.state()).running, "it answers those it has let in"
        limit_descriptors(shim, 1000)
        other = await coming
        assert (await other.state()).running
        await other.close()

    run(test)


def test_streams_that_the_kernel_keeps_back_are_told_of(run: Run) -> None:
    async def test(running: Harness) -> None:
        shim = await running.spawn("sleep", "1000")
        await shim.launch()
        limit_descriptors(shim, 1)
        with pytest.raises(System, match="too many open files in the shim"):
            await attach(shim)
        limit_descriptors(shim, 1000)
        await attach(shim)

    run(test)


def test_many_attach_though_the_daemon_was_given_few_descriptors(run: Run) -> None:
    async def test(running: Harness) -> None:
        _, hard = resource.prlimit(running.zygote.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(running.zygote.pid, resource.RLIMIT_NOFILE, (GIVEN, hard))
        shim = await running.spawn("sh", "-c", "ulimit -Sn; read line", open_stdin=True)
        first = await attach(shim)
        await shim.launch()
        assert await first.read(until=b"\n") == b"%d\n" % GIVEN, "the container has the limit that there was"
        streams = [await attach(shim) for _ in range(ATTACHED)]
        await shim.close_stdin()
        for stream in streams:
            assert await stream.read() == b""

    run(test)


def test_a_launch_for_which_there_is_no_room_can_be_given_up(run: Run) -> None:
    async def test(running: Harness) -> None:
        lock = running.directory / "lock"
        lock.touch()
        shim = await running.spawn("true", rootfs=(Mount("bind", "/", lock=str(lock)),))
        state = running.directory / "c" / "state"
        shutil.rmtree(state)
        with pytest.raises(System, match="launch container c"):
            await shim.launch()
        state.mkdir()
        await shim.launch()
        assert (await shim.wait()).exit_code == 0

    run(test)


def test_a_record_is_whole_or_not_there(tmp_path: Path) -> None:
    record = ExitRecord(0, False, 1, "x" * 20_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # as on a disk that is nearly full, a part can be written
    try:
        with pytest.raises(OSError, match="File too large"):
            records.write_exit(str(tmp_path), record)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert records.read_exit(tmp_path) is None
    assert not (tmp_path / records.EXIT).exists()
    records.write_exit(str(tmp_path), record)
    assert records.read_exit(tmp_path) == record
