"""The engine's events: a bounded history and any number of listeners, none of which can slow the engine down."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable

from sampan.api.hookspecs import Event

HISTORY = 256
"""Events that are kept for `since`, as Docker keeps them."""

BACKLOG = 4096
"""Events that a listener may lag behind before it is cut off."""


class EventBus:
    """Takes events, keeps the newest, hands them to listeners."""

    def __init__(self) -> None:
        self._history: deque[Event] = deque(maxlen=HISTORY)
        self._queues: set[asyncio.Queue[Event | None]] = set()
        self._observers: list[Callable[[Event], None]] = []

    def observe(self, observer: Callable[[Event], None]) -> None:
        """Call `observer` with every event, in the loop; it must not block."""
        self._observers.append(observer)

    def emit(self, type: str, action: str, actor_id: str, attributes: dict[str, str]) -> None:
        """Make an event of now."""
        event = Event(type, action, actor_id, attributes, time.time_ns())
        self._history.append(event)
        for queue in list(self._queues):
            if queue.qsize() >= BACKLOG:
                self._queues.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(event)
        for observer in self._observers:
            observer(event)

    async def listen(self, since_ns: int | None = None, until_ns: int | None = None) -> AsyncIterator[Event]:
        """Give the events from `since_ns` on (None: from now) up to `until_ns` (None: for ever)."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        if since_ns is not None:
            for event in self._history:
                if event.time_ns >= since_ns and (until_ns is None or event.time_ns <= until_ns):
                    queue.put_nowait(event)
        self._queues.add(queue)
        try:
            while True:
                following = await self._next(queue, until_ns)
                if following is None or (until_ns is not None and following.time_ns > until_ns):
                    return
                yield following
        finally:
            self._queues.discard(queue)

    @staticmethod
    async def _next(queue: asyncio.Queue[Event | None], until_ns: int | None) -> Event | None:
        if until_ns is None or not queue.empty():
            return await queue.get()
        try:
            async with asyncio.timeout(max(0.0, (until_ns - time.time_ns()) / 1e9)):
                return await queue.get()
        except TimeoutError:
            return None

    def close(self) -> None:
        """End all listening."""
        for queue in self._queues:
            queue.put_nowait(None)
