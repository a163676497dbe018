"""A container as the engine holds it in memory: its record, its shim, and those who wait for something about it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sampan.api.errors import Conflict, SampanError
from sampan.engine.records import ContainerRecord, Status
from sampan.engine.streams import close_descriptors
from sampan.engine.trace import Trace
from sampan.launch.client import Shim


@dataclass(frozen=True, slots=True)
class Directories:
    """Where a container's files lie: `root` survives a reboot, `state` does not."""

    root: Path
    state: Path

    @property
    def bundle(self) -> Path:
        """The OCI bundle."""
        return self.root / "bundle"

    @property
    def logs(self) -> Path:
        """The log driver's directory."""
        return self.root / "logs"

    @property
    def shm(self) -> Path:
        """The /dev/shm that others may join."""
        return self.state / "shm"

    @property
    def files(self) -> Path:
        """The engine's own files that are bound into the container."""
        return self.root / "files"


@dataclass(frozen=True, slots=True, eq=False)
class PendingStreams:
    """Descriptors of an attach that came before the start; -1 where a stream is not wanted."""

    stdin: int
    stdout: int
    stderr: int
    stdin_eof_closes: bool

    def close(self) -> None:
        """Close our copies."""
        close_descriptors((self.stdin, self.stdout, self.stderr))


class Container:
    """One container. `lock` is held by whoever changes its state; waiting and reading need no lock."""

    def __init__(self, record: ContainerRecord, directories: Directories) -> None:
        self.record = record
        self.directories = directories
        self.lock = asyncio.Lock()
        self.trace = Trace(directories.root / "trace.json")
        self.shim: Shim | None = None
        self.pending: list[PendingStreams] = []
        self.is_moving = False
        """Its files are on the way to another storage driver: that may take long, and it stays stopped."""
        self.restart_wait: asyncio.TimerHandle | None = None
        self.restarts_under_way = 0
        """How many are about to stop and start it: it does not remove itself meanwhile."""
        self.log_ended = asyncio.Event()
        self.log_ended.set()
        self._next_exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._removed: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def id(self) -> str:
        """The container's id: 64 hex digits."""
        return self.record.id

    @property
    def is_running(self) -> bool:
        """Say whether the container has a process."""
        return self.record.state.is_running

    def tell_exit(self, code: int) -> None:
        """Answer those who wait for the next exit."""
        future, self._next_exit = self._next_exit, asyncio.get_running_loop().create_future()
        future.set_result(code)

    def tell_removed(self) -> None:
        """Answer those who wait for the removal, and those who wait for an exit that will not come."""
        code = self.record.state.exit_code
        for future in (self._removed, self._next_exit):
            if not future.done():
                future.set_result(code)

    @contextmanager
    def reading(self, driver: str) -> Iterator[None]:
        """Read the container's files in the storage driver `driver`, which nobody keeps there meanwhile.

        Raises `Conflict` at the end, instead of any other error, if they were removed or moved: what was read may be a part.
        """
        try:
            yield
        except SampanError as error:
            self._check_kept(driver, error)
            raise
        self._check_kept(driver)

    def _check_kept(self, driver: str, cause: SampanError | None = None) -> None:
        what = f"read the files of container {self.record.name}"
        if self.status in (Status.REMOVING, Status.DEAD) or self._removed.done():
            raise Conflict(f"{what}: it is being removed") from cause
        if self.record.storage_driver != driver:
            now = self.record.storage_driver
            raise Conflict(f"{what}: they were moved from storage driver {driver} to {now} meanwhile", remedy="try again") from cause

    async def settle(self) -> None:
        """Wait for a start that is under way: the process may have spoken before the daemon knows that it runs."""
        if not self.is_running and self.lock.locked() and not self.is_moving:
            async with self.lock:
                pass

    def when_exited(self) -> asyncio.Future[int]:
        """Give a future of the next exit code; shield it when cancelling must not reach others."""
        return self._next_exit

    def when_removed(self) -> asyncio.Future[int]:
        """Give a future of the last exit code, done when the container is removed."""
        return self._removed

    @property
    def status(self) -> Status:
        """The state in Docker's words."""
        return self.record.state.status
