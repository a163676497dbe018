"""Links that nothing passes any more, deleted when nobody waits for it: the kernel takes 8 to 21 ms for one.

Mostly there is nothing left to do: a link goes with its sandbox, and the kernel takes that apart when the last process has left
it. What a crash keeps here is found by its mark, by `gc`.
"""

from __future__ import annotations

import logging
import threading

from sampan_network_bridge.links import Veth, delete_veth

log = logging.getLogger(__name__)

PATIENCE = 1.0
"""Seconds that the kernel gets to be done with a sandbox first."""


class Reaper:
    """Deletes links in the network namespace of the threads that hand them over, by a thread that ends with its work."""

    def __init__(self) -> None:
        """Begin with nothing to do."""
        self._lock = threading.Lock()
        self._waiting: list[Veth] = []
        self._thread: threading.Thread | None = None
        self._hurry = threading.Event()

    def take(self, veth: Veth) -> None:
        """Have a link deleted soon."""
        with self._lock:
            self._waiting.append(veth)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bridge-reaper", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Delete what is left, now."""
        self._hurry.set()
        if (thread := self._thread) is not None:
            thread.join()

    def _run(self) -> None:
        while batch := self._next():
            for veth in batch:
                try:
                    delete_veth(veth)
                except OSError as error:
                    log.warning("delete link %s, whose container has ended: %s", veth.name, error)

    def _next(self) -> list[Veth]:
        """Wait a while, and give what has come; nothing if the thread is to end."""
        self._hurry.wait(PATIENCE)
        with self._lock:
            batch, self._waiting = self._waiting, []
            if not batch:
                self._thread = None
        return batch
