"""The processes that were started in a container beside its first one, and how they ended."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from sampan.api.errors import Conflict, NotFound, SampanError, System
from sampan.api.runtime import Handle
from sampan.launch import runtime_calls
from sampan.launch.children import Children
from sampan.launch.connection import Request, Waiters
from sampan.launch.loop import Loop
from sampan.launch.operations import Operations, Step
from sampan.launch.process import Process
from sampan.launch.protocol import ExecConfig, ExecState, ExitRecord, ShimConfig
from sampan.launch.streams import Streams, check_size

KEPT = 128
"""How many ended execs are remembered for a daemon that asks late."""


class Execs:
    """All execs of a container."""

    def __init__(
        self, config: ShimConfig, loop: Loop, operations: Operations, children: Children, on_flushed: Callable[[], None]
    ) -> None:
        """`on_flushed` is called when an attached stream has got the last of what it is due."""
        self._config = config
        self._loop = loop
        self._operations = operations
        self._children = children
        self._on_flushed = on_flushed
        self._running: dict[str, Process] = {}
        self._ended: OrderedDict[str, ExecState] = OrderedDict()
        self._waiters: dict[str, Waiters] = {}
        self._unflushed: set[Streams] = set()

    @property
    def states(self) -> dict[str, ExecState]:
        """Those that run, and the last ones that ended."""
        running = {key: ExecState(process.pid, None) for key, process in self._running.items() if process.pid}
        return {**self._ended, **running}

    @property
    def flushed(self) -> bool:
        """Whether the attached streams of those that ended have got all that they are due."""
        return not self._unflushed

    def find(self, exec_id: str) -> Process:
        """Give one that runs. Raises `NotFound`."""
        process = self._running.get(exec_id)
        if process is None:
            raise NotFound(f"find exec {exec_id} in container {self._config.id}: no such process")
        return process

    def start(self, request: Request, handle: Handle) -> None:
        """Start one. Raises `Conflict`, `InvalidArgument`, `OSError`; what the driver says is answered later."""
        config = ExecConfig.from_data(request.message["config"])
        if config.id in self._running or config.id in self._ended:
            raise Conflict(f"exec {config.id} in container {self._config.id}: the id is taken")
        if config.console_size is not None:
            check_size(*config.console_size)
        process = self._new_process(config)
        streams = process.streams

        def done(pid: Any, error: SampanError | None) -> None:
            if error is None:
                try:
                    process.started(pid)
                except System as problem:
                    error = problem
            if error is None:
                self._children.adopt(process)
                request.reply(pid)
            else:
                self._give_up(config.id)
                request.fail(error)

        stdio = streams.stdio
        try:
            streams.attach(request.take_fds(), stdin_eof_closes=True)
        except (System, OSError):
            self._give_up(config.id)
            raise
        self._operations.run(
            Step("exec in", lambda: runtime_calls.execute(self._config, handle, config, stdio), done, made=int),
            fds=tuple(stdio.descriptors.values()),
            makes_process=True,
        )

    def wait(self, request: Request) -> None:
        """Answer with the exit record, once there is one. Raises `NotFound`."""
        exec_id = request.message["exec_id"]
        ended = self._ended.get(exec_id)
        if ended is not None and ended.exit is not None:
            request.reply(ended.exit.to_data())
            return
        self.find(exec_id)
        self._waiters.setdefault(exec_id, Waiters()).add(request)

    def _give_up(self, exec_id: str) -> None:
        """It could not be started: its id is free again."""
        self._running.pop(exec_id).streams.give_up()

    def _new_process(self, config: ExecConfig) -> Process:
        def output_ended() -> None:
            process.output_ended()
            if streams.flushed:
                self._unflushed.discard(streams)
            self._on_flushed()

        streams = Streams(self._loop, tty=config.tty, open_stdin=config.open_stdin, log=None, on_end=output_ended)
        process = Process(self._loop, streams, lambda _: self._process_ended(config.id))
        self._running[config.id] = process
        if config.console_size is not None:
            streams.resize(*config.console_size)
        return process

    def _process_ended(self, exec_id: str) -> None:
        process = self._running.pop(exec_id)
        self._unflushed.add(process.streams)
        process.streams.drain()
        if process.streams.flushed:
            self._unflushed.discard(process.streams)
        assert process.exit_code is not None
        record = ExitRecord(process.exit_code, False, process.finished_at_ns)
        self._ended[exec_id] = ExecState(process.pid, record)
        while len(self._ended) > KEPT:
            self._ended.popitem(last=False)
        waiters = self._waiters.pop(exec_id, None)
        if waiters is not None:
            waiters.reply(record.to_data())
