from __future__ import annotations

import asyncio
import time

from sampan.api.hookspecs import Event
from sampan.engine.events import BACKLOG, HISTORY, EventBus


def emit(bus: EventBus, *actions: str) -> None:
    for action in actions:
        bus.emit("container", action, "id", {"name": "n"})


def test_a_listener_hears_what_comes_after_it() -> None:
    async def main() -> list[str]:
        bus = EventBus()
        emit(bus, "before")
        heard: list[str] = []

        async def listen() -> None:
            async for event in bus.listen():
                heard.append(event.action)

        listening = asyncio.create_task(listen())
        await asyncio.sleep(0)
        emit(bus, "one", "two")
        bus.close()
        await listening
        return heard

    assert asyncio.run(main()) == ["one", "two"]


def test_history_between_two_times() -> None:
    async def main() -> None:
        bus = EventBus()
        emit(bus, "early")
        since = time.time_ns()
        emit(bus, "in")
        until = time.time_ns()
        while time.time_ns() == until:
            pass
        emit(bus, "late")
        assert [event.action async for event in bus.listen(since, until)] == ["in"]
        assert [event.action async for event in bus.listen(0, time.time_ns())] == ["early", "in", "late"]

    asyncio.run(main())


def test_listening_ends_at_its_time() -> None:
    async def main() -> None:
        bus = EventBus()
        listening = bus.listen(until_ns=time.time_ns() + 50_000_000)
        first = asyncio.ensure_future(anext(listening))
        await asyncio.sleep(0)
        emit(bus, "in time")
        assert (await first).action == "in time"
        time.sleep(0.06)  # the loop is held up beyond the end, as a busy daemon's may be
        emit(bus, "too late")
        assert [event.action async for event in listening] == []

    asyncio.run(main())


def test_history_is_bounded() -> None:
    async def main() -> list[Event]:
        bus = EventBus()
        emit(bus, *(str(number) for number in range(HISTORY + 10)))
        return [event async for event in bus.listen(0, time.time_ns())]

    found = asyncio.run(main())
    assert (len(found), found[0].action) == (HISTORY, "10")


def test_a_slow_listener_is_cut_off_and_holds_nobody_up() -> None:
    async def main() -> None:
        bus = EventBus()
        slow = bus.listen()
        first = asyncio.ensure_future(anext(slow))
        await asyncio.sleep(0)
        emit(bus, *(str(number) for number in range(BACKLOG + 100)))
        assert (await first).action == "0"
        rest = [event.action async for event in slow]
        assert rest == [str(number) for number in range(1, BACKLOG)]

    asyncio.run(main())


def test_a_listener_that_leaves_is_forgotten() -> None:
    async def main() -> None:
        bus = EventBus()
        listening = bus.listen()
        first = asyncio.ensure_future(anext(listening))
        await asyncio.sleep(0)
        emit(bus, "one")
        await first
        await listening.aclose()  # type: ignore[attr-defined]
        assert not bus._queues

    asyncio.run(main())


def test_observers_get_everything() -> None:
    bus = EventBus()
    seen: list[Event] = []
    bus.observe(seen.append)
    emit(bus, "one")
    assert (seen[0].type, seen[0].action, seen[0].actor_id, seen[0].attributes) == ("container", "one", "id", {"name": "n"})
