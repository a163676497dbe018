"""The engine's open drivers: one object per driver, each with a bounded pool of threads of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

from pydantic import ValidationError

from sampan.api.driver import Driver
from sampan.api.errors import InvalidArgument, SampanError, System, Unavailable

log = logging.getLogger(__name__)

D = TypeVar("D", bound=Driver)
P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4
"""Operations of one driver that may run at once; more wait."""

DEADLINE = 120.0
"""Seconds after which the engine gives up on an operation. The thread can't be stopped; its slot stays taken."""


class DriverHandle(Generic[D]):
    """A driver and its threads. `call` runs one of its operations there; what it raises comes out as an error of ours."""

    def __init__(self, driver: D, capabilities: frozenset[str] = frozenset()) -> None:
        self.driver = driver
        self.capabilities = capabilities
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix=f"driver-{driver.name}")
        self._long_pool = ThreadPoolExecutor(THREADS, thread_name_prefix=f"driver-{driver.name}-long")
        self._running = 0
        self._admitted = asyncio.Event()
        self._admitted.set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def name(self) -> str:
        """The driver's name."""
        return self.driver.name

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` (a method of the driver) in one of its threads."""
        try:
            async with asyncio.timeout(DEADLINE):
                return await self._run(self._pool, function, *args, **kwargs)
        except TimeoutError as error:
            raise Unavailable(
                f"driver {self.name}: {function.__name__} did not return within {DEADLINE:.0f} s"
            ) from error

    async def call_for_long(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` without a deadline, in a thread that quick operations don't wait for."""
        return await self._run(self._long_pool, function, *args, **kwargs)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
        """Hold up the driver's operations: those under way end first, new ones wait. Gives what calls one meanwhile."""
        await self._admission()
        self._admitted.clear()
        try:
            await self._idle.wait()
            yield partial(self._work, self._pool)
        finally:
            self._admitted.set()

    async def _run(
        self, pool: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        await self._admission()
        self._running += 1
        self._idle.clear()
        try:
            return await self._work(pool, function, *args, **kwargs)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def _admission(self) -> None:
        while not self._admitted.is_set():  # another who waited may have come first
            await self._admitted.wait()

    async def _work(self, pool: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            work = partial(contained, function, *args, **kwargs)
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        except (SampanError, TimeoutError):
            raise
        except Exception as error:
            log.exception("driver %s: %s raised an error that is not of the contract", self.name, function.__name__)
            raise System(f"driver {self.name}: {function.__name__}: {type(error).__name__}: {error}") from error

    def shutdown(self) -> None:
        """Let go of the threads; a hung one is left behind."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._long_pool.shutdown(wait=False, cancel_futures=True)


def contained(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what a plugin wrote; a `SystemExit` of its would end the daemon, and becomes an error like others."""
    try:
        return function(*args, **kwargs)
    except SystemExit as error:
        raise RuntimeError(f"it wanted to end the daemon: {error!r}") from error


def driver_config(cls: type[Driver], values: dict[str, Any], where: str) -> Any:
    """Check a driver's settings with its model. Raises `InvalidArgument` that names table and key."""
    try:
        return cls.config_model().model_validate(values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise InvalidArgument(f"settings [{where}.{cls.name}]: {faults}") from error


def private_directory(path: Path, mode: int = 0o700) -> Path:
    """Make a directory with exactly this mode, and give its path."""
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    path.chmod(mode)
    return path
