"""A small single-threaded event loop over epoll: all that a shim needs, in a fraction of asyncio's memory."""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable

IN = select.EPOLLIN
OUT = select.EPOLLOUT


class Timer:
    """A call that is to come. `cancel` is idempotent and also right after it came."""

    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        """`due` is a time of the monotonic clock, in seconds."""
        self.due = due
        self.callback: Callable[[], None] | None = callback

    def __lt__(self, other: Timer) -> bool:
        """Order by time, for the heap."""
        return self.due < other.due

    def cancel(self) -> None:
        """Let it not come."""
        self.callback = None


class Loop:
    """Calls back when a descriptor is ready or a time has come."""

    def __init__(self) -> None:
        """Make an empty loop."""
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._changed: set[int] = set()
        self._timers: list[Timer] = []
        self._running = False

    def watch(self, fd: int, events: int, callback: Callable[[], None]) -> None:
        """Call `callback` whenever one of `events` holds, and on error and hang-up. Again for `fd`:
        replaces.
        """
        if fd in self._callbacks:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._callbacks[fd] = callback
        self._changed.add(fd)

    def unwatch(self, fd: int) -> None:
        """Stop watching; before the descriptor is closed. Idempotent."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call back once, in `delay_s` seconds."""
        timer = Timer(time.monotonic() + delay_s, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def run(self) -> None:
        """Go on until `stop`."""
        self._running = True
        while self._running:
            ready = self._epoll.poll(self._timeout())
            # What was seen before a change may be about another descriptor of that number, or not what is
            # waited
            # for now. Nothing is lost: a state that still holds is told again in the next round.
            self._changed.clear()
            for fd, _ in ready:
                callback = self._callbacks.get(fd)
                if callback is not None and fd not in self._changed:
                    callback()
            self._run_timers()

    def close(self) -> None:
        """Let go of the epoll descriptor; nothing is watched any more."""
        self._epoll.close()
        self._callbacks.clear()

    def stop(self) -> None:
        """End `run` after this round."""
        self._running = False

    def _timeout(self) -> float | None:
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0].due - time.monotonic()) if self._timers else None

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].due <= now:
            callback = heapq.heappop(self._timers).callback
            if callback is not None:
                callback()
