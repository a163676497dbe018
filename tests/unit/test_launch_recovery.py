"""A shim is killed, and a fresh one is asked to go on with its container."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ground.launch import Harness, Run, attach, eventually
from sampan.api.errors import Conflict, NotFound, SampanError, System, Unsupported
from sampan.launch.client import Shim
from sampan.launch.protocol import ExecConfig, ShimConfig
from sampan.launch.records import read_exit

UNTIL_TOLD = "while [ ! -e {go} ]; do sleep 0.02; done; echo after; read line; exit 7"


async def launched_and_killed(running: Harness, *args: str, **settings: Any) -> tuple[ShimConfig, int]:
    """Give the configuration and the first process of a container whose shim was killed."""
    config = running.config(*args, runtime_config=settings)
    shim = await running.zygote.spawn(config)
    launched = await shim.launch()
    os.kill(shim.pid, signal.SIGKILL)
    await shim.closed.wait()
    return config, launched.pid


async def fresh(running: Harness, config: ShimConfig) -> Shim:
    shim = await running.zygote.spawn(config)
    running.shims.append(shim)
    return shim


async def given_up(running: Harness, shim: Shim, pid: int) -> None:
    """A shim that was not to go on with its container ends by itself; the container is for us to end."""
    running.shims.remove(shim)
    await shim.close()
    await eventually(lambda: not Path(f"/proc/{shim.pid}").exists())
    os.killpg(pid, signal.SIGKILL)


def test_a_container_goes_on_with_its_output_and_its_exit_code(run: Run) -> None:
    async def test(running: Harness) -> None:
        go = running.directory / "go"
        config, pid = await launched_and_killed(running, "sh", "-c", UNTIL_TOLD.format(go=go), recover=True)
        shim = await fresh(running, config)
        streams = await attach(shim)
        assert await shim.recover(started_at_ns=5, paused=False)
        state = await shim.state()
        assert (state.pid, state.running, state.started_at_ns) == (pid, True, 5)
        go.touch()
        assert await streams.read() == b"after\n"
        assert (await shim.wait()).exit_code == 7
        assert await running.logged() == b"after\n"
        record = read_exit(running.directory / "c")
        assert record is not None and (record.exit_code, record.error) == (7, "")
        await shim.delete()
        streams.close()

    run(test)


def test_a_recovered_container_can_be_used(run: Run) -> None:
    async def test(running: Harness) -> None:
        config, pid = await launched_and_killed(running, "sleep", "1000", recover=True)
        shim = await fresh(running, config)
        assert await shim.recover(started_at_ns=5, paused=False)
        with pytest.raises(Conflict, match="launched already"):
            await shim.recover(started_at_ns=5, paused=False)
        await shim.exec(ExecConfig("e", {"args": ["sh", "-c", "exit 3"]}))
        assert (await shim.wait_exec("e")).exit_code == 3
        assert await shim.processes() == (pid,)
        await shim.signal(signal.SIGTERM)
        assert (await shim.wait()).exit_code == 143

    run(test)


def test_it_outlives_the_fresh_shim_too_and_is_deleted_while_it_runs(run: Run) -> None:
    async def test(running: Harness) -> None:
        config, pid = await launched_and_killed(running, "sleep", "1000", recover=True)
        second = await running.zygote.spawn(config)
        assert await second.recover(started_at_ns=5, paused=True)
        assert (await second.state()).paused
        os.kill(second.pid, signal.SIGKILL)
        await second.closed.wait()
        third = await fresh(running, config)
        assert await third.recover(started_at_ns=5, paused=False)
        await third.delete()
        assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]

    run(test)


def test_a_driver_that_can_not_go_on_says_so(run: Run) -> None:
    async def test(running: Harness) -> None:
        config, pid = await launched_and_killed(running, "sleep", "1000")
        shim = await fresh(running, config)
        assert not await shim.recover(started_at_ns=5, paused=False)
        await given_up(running, shim, pid)

    run(test)


@pytest.mark.parametrize("version", [0, 2])
def test_a_handle_of_another_release_is_refused(run: Run, version: int) -> None:
    async def test(running: Harness) -> None:
        config, pid = await launched_and_killed(running, "sleep", "1000", recover=True)
        path = Path(config.state_dir, "handle.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"version": version}))
        shim = await fresh(running, config)
        with pytest.raises(Unsupported, match=f"version {version} is of another release"):
            await shim.recover(started_at_ns=5, paused=False)
        await given_up(running, shim, pid)

    run(test)


@pytest.mark.parametrize(("text", "error"), [(None, NotFound), ("{}", System), ('{"pid"', System)])
def test_a_handle_that_is_none(run: Run, text: str | None, error: type[SampanError]) -> None:
    async def test(running: Harness) -> None:
        config, pid = await launched_and_killed(running, "sleep", "1000", recover=True)
        path = Path(config.state_dir, "handle.json")
        path.unlink()
        if text is not None:
            path.write_text(text)
        shim = await fresh(running, config)
        with pytest.raises(error, match=r"handle\.json"):
            await shim.recover(started_at_ns=5, paused=False)
        await given_up(running, shim, pid)

    run(test)


def test_a_driver_that_does_not_know_the_end_is_told_and_the_container_ended(run: Run) -> None:
    async def test(running: Harness) -> None:
        config, pid = await launched_and_killed(running, "sleep", "1000", recover=True)
        failing = replace(config, runtime_config={"recover": True, "fail": "wait"})
        shim = await fresh(running, failing)
        assert await shim.recover(started_at_ns=5, paused=False)
        record = await shim.wait()
        assert record.exit_code == 255
        assert "wait for container c" in record.error
        await shim.delete()
        assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]

    run(test)


def test_waiting_takes_as_long_as_it_takes(run: Run) -> None:
    """Other operations have a time limit; this one has none."""

    async def test(running: Harness) -> None:
        config, _ = await launched_and_killed(running, "sleep", "1", recover=True)
        shim = await fresh(running, replace(config, driver_timeout_s=0.3))
        assert await shim.recover(started_at_ns=5, paused=False)
        record = await shim.wait()
        assert (record.exit_code, record.error) == (0, "")

    run(test)
