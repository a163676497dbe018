"""`docker export`: a container's whole root as a tar, streamed to whoever asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from sampan.api.storage import StorageDriver
from sampan.content.layer_writer import write_tree
from sampan.engine import rootfs
from sampan.engine.container import Container
from sampan.engine.containers import attributes
from sampan.engine.events import EventBus
from sampan.engine.outflow import outflow
from sampan.engine.storage import StorageDrivers

EXPORTS = 16
"""Exports at once; more wait. They have threads of their own: each waits for its client, however slow."""


class Exports:
    """Exports containers."""

    def __init__(self, storage: StorageDrivers, events: EventBus) -> None:
        self._storage = storage
        self._events = events
        self._pool = ThreadPoolExecutor(EXPORTS, thread_name_prefix="export")

    async def export(self, container: Container) -> AsyncIterator[bytes]:
        """Give the tar of a container's root, without its volumes, in any state; see `outflow` for errors.

        `Conflict` if the container is removed or moved meanwhile.
        """
        storage = await self._storage.get(container.record.storage_driver)
        chunks = await outflow(self._pool, lambda out: _write(container, storage.driver, out))
        self._events.emit("container", "export", container.id, attributes(container.record))
        return chunks

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _write(container: Container, driver: StorageDriver, out: int) -> None:
    with container.reading(driver.name), rootfs.opened(driver.look(container.id)) as root:
        write_tree(root, out)
