"""Links of ended containers: shut and deleted when nobody waits for it.

Deleting one takes the kernel 8 to 21 ms, and meanwhile it changes no other link: while one container's sandbox is taken apart,
even shutting the next one's link would have to wait. What a crash keeps here is found by its mark, by `gc`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sampan.api.errors import SampanError
from sampan_network_bridge.links import Veth, delete_veth, shut

log = logging.getLogger(__name__)

PATIENCE = 1.0
"""Seconds without new work that the kernel gets to be done with the sandboxes, and mostly with the links in them."""


class Reaper:
    """Works in the network namespace of the threads that hand links over, by a thread that ends with its work."""

    def __init__(self) -> None:
        """Begin with nothing to do."""
        self._changed = threading.Condition()
        self._open: list[Veth] = []  # handed over, and packets may still pass
        self._shut: list[Veth] = []
        self._thread: threading.Thread | None = None
        self._closing = False

    def take(self, veth: Veth) -> None:
        """Have a link shut now, and deleted soon."""
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="bridge-reaper", daemon=True)
                thread.start()
                self._thread = thread
            self._open.append(veth)
            self._changed.notify_all()

    def settle(self) -> None:
        """Wait until nothing passes the links that were handed over: then their addresses can be another's."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open)

    def close(self) -> None:
        """Shut and delete what is left, now."""
        with self._changed:
            self._closing = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._open or self._closing, PATIENCE)
                to_shut = list(self._open)
                to_delete = [] if to_shut else self._shut
                if not to_shut:
                    self._shut = []
                    if not to_delete:
                        self._thread = None
                        return
            there = [veth for veth in to_shut if _done(shut, veth)]
            while to_delete and not self._open:  # a start may wait for what was handed over meanwhile
                _done(delete_veth, to_delete.pop())
            with self._changed:
                self._shut += there + to_delete
                del self._open[: len(to_shut)]
                self._changed.notify_all()


def _done(work: Callable[[Veth], bool | None], veth: Veth) -> bool:
    try:
        return bool(work(veth))
    except (OSError, SampanError) as error:
        log.warning("link %s of a container that has ended: %s", veth.name, error)
        return True
