"""The engine's hold on sampan-netd: found again, replaced when it dies or hangs, gone when nobody needs it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ground.netd import netds
from ground.waiting import wait_until
from sampan.engine import netd as supervisor
from sampan.engine.netd import Ask, Netd
from sampan.netd.outside import Outside
from sampan.testing.namespaces import Namespace


class Witness:
    """A tenant that has something in it, and counts how often it told."""

    in_use = True

    def __init__(self) -> None:
        self.told = 0

    async def restore(self, ask: Ask) -> None:
        await ask("hello")
        self.told += 1


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    wait_until(lambda: not netds(tmp_path), "sampan-netd ends when nobody needs it")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def until(condition: object, what: str) -> None:
    async with asyncio.timeout(15):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


def test_it_is_started_once_and_found_by_the_next_daemon(state: Path) -> None:
    async def scenario() -> None:
        first, witness = Netd(state), Witness()
        first.add(witness)
        assert not await first.find()
        await asyncio.gather(*(first.request("hello") for _ in range(5)))
        (pid,) = netds(state)
        second = Netd(state)
        assert await second.find()
        await first.close()
        await second.request("hello")
        assert (netds(state), witness.told) == ([pid], 1)
        await second.close()

    asyncio.run(scenario())


def test_one_that_is_killed_is_replaced_and_told_all_without_being_asked(state: Path) -> None:
    async def scenario() -> None:
        netd, witness = Netd(state), Witness()
        netd.add(witness)
        await netd.request("hello")
        (pid,) = netds(state)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: witness.told == 2 and netd.connected, "another one is told")
        assert netds(state) not in ([], [pid])
        await netd.close()

    asyncio.run(scenario())


def test_a_request_beside_its_death_is_answered_by_the_next(state: Path) -> None:
    async def scenario() -> None:
        netd = Netd(state)
        await netd.request("hello")
        (pid,) = netds(state)
        os.kill(pid, signal.SIGKILL)
        assert (await netd.request("hello"))["version"] == [1, 0]
        await netd.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("found_by_another", [False, True])
def test_one_that_hangs_is_replaced(state: Path, monkeypatch: pytest.MonkeyPatch, found_by_another: bool) -> None:
    async def scenario() -> None:
        netd = Netd(state)
        await netd.request("hello")
        (pid,) = netds(state)
        os.kill(pid, signal.SIGSTOP)
        monkeypatch.setattr(supervisor, "DEADLINE", 0.2)
        asked = Netd(state) if found_by_another else netd
        for _ in range(20):  # a start may take longer than that deadline on a busy machine
            try:
                assert (await asked.request("hello"))["version"] == [1, 0]
                break
            except supervisor.SampanError:
                monkeypatch.setattr(supervisor, "DEADLINE", supervisor.DEADLINE * 2)
        assert pid not in netds(state)
        await asked.close()
        await netd.close()

    asyncio.run(scenario())


def test_it_holds_nothing_that_the_daemon_inherited(state: Path) -> None:
    async def scenario() -> None:
        reading, writing = os.pipe()
        os.set_inheritable(writing, True)
        netd = Netd(state)
        await netd.request("hello")
        os.close(writing)
        assert os.read(reading, 1) == b""  # the end, for nobody else has it
        os.close(reading)
        await netd.close()

    asyncio.run(scenario())


def test_an_unknown_request_is_refused_in_words(state: Path) -> None:
    async def scenario() -> None:
        netd = Netd(state)
        with pytest.raises(supervisor.SampanError, match="sampan-netd 1.0 does not know this request"):
            await netd.request("dance")
        await netd.close()

    asyncio.run(scenario())


def test_sockets_that_ask_the_world_are_limited_and_made_where_they_ask(stack: ExitStack) -> None:
    outside, elsewhere = Outside(1), Namespace()
    stack.callback(elsewhere.close)
    stack.callback(outside.close)
    for _ in range(2):
        with outside.open(socket.AF_INET, socket.SOCK_DGRAM, elsewhere.fd) as first:
            with pytest.raises(OSError, match="Too many open files"), outside.open(socket.AF_INET, socket.SOCK_DGRAM, outside.home):
                pass
            with pytest.raises(OSError, match="Network is unreachable"):
                first.connect(("192.0.2.1", 53))
        assert first.fileno() == -1
    assert os.stat("/proc/thread-self/ns/net").st_ino == os.fstat(outside.home).st_ino
