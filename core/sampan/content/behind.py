"""Work that a thread behind does in order while the main one goes on: writing, hashing, compressing."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

_CALLS_AHEAD = 16


class Behind:
    """Calls made in order by a thread behind. The first that raises is the last, and `do` or `wait` raise its error.

    The thread starts with the first call: it keeps the capabilities that it is born with.
    """

    def __init__(self) -> None:
        """Start nothing yet."""
        self._calls: queue.Queue[Callable[[], object]] = queue.Queue(_CALLS_AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def do(self, call: Callable[[], object]) -> None:
        """Make a call soon; wait only while many are ahead of it."""
        if self._error is not None:
            raise self._error
        if not self._thread.is_alive():
            self._thread.start()
        self._calls.put(call)

    def wait(self) -> None:
        """Wait until all calls are made."""
        self._calls.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            call = self._calls.get()
            if self._error is None:
                try:
                    call()
                except BaseException as error:
                    self._error = error
            self._calls.task_done()
