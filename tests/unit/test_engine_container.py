from __future__ import annotations

import asyncio
from pathlib import Path

from ground.records import container_record
from sampan.engine.container import Container, Directories
from sampan.engine.records import Status


def container() -> Container:
    return Container(container_record(), Directories(Path("/r"), Path("/s")))


def test_who_comes_during_a_start_waits_for_its_end() -> None:
    async def main() -> None:
        starting = container()
        await starting.lock.acquire()
        waiting = asyncio.create_task(starting.settle())
        await asyncio.sleep(0)
        assert not waiting.done()
        starting.record.state.status = Status.RUNNING
        starting.lock.release()
        await waiting
        assert not starting.lock.locked()

    asyncio.run(main())


def test_who_comes_to_a_running_container_does_not_wait_for_its_lock() -> None:
    async def main() -> None:
        running = container()
        running.record.state.status = Status.RUNNING
        async with running.lock:
            await running.settle()

    asyncio.run(main())


def test_an_exit_is_told_to_all_who_wait_and_to_nobody_later() -> None:
    async def main() -> None:
        it = container()
        first, second = it.when_exited(), it.when_exited()
        it.tell_exit(3)
        assert (await first, await second) == (3, 3)
        assert not it.when_exited().done()
        it.record.state.exit_code = 4
        late = it.when_exited()
        it.tell_removed()
        assert (await late, await it.when_removed()) == (4, 4)

    asyncio.run(main())
