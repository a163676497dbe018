"""`start`, `kill`, `pause`, `resume`, `delete`."""

from __future__ import annotations

import contextlib
import signal
from argparse import Namespace

from sampan.api.errors import Conflict, InvalidArgument, NotFound
from sampan_runtime_native.cli import container
from sampan_runtime_native.cli.container import CREATED, CREATING, PAUSED, RUNNING, STOPPED
from sampan_runtime_native.cli.store import Record, Store

_START_REFUSED = {
    STOPPED: "cannot start a container that has stopped",
    RUNNING: "cannot start an already running container",
    PAUSED: "cannot start a container in the paused state",
    CREATING: "cannot start a container in the creating state",
}


def start(options: Namespace) -> int:
    """Let the first process run the container's program."""
    store = Store(options.root)
    with store.held(options.id) as record:
        status = container.status_of(store, record)
        if status != CREATED:
            raise Conflict(_START_REFUSED[status])
        container.driver_for(store, record.id).start(container.handle_of(record))
    return 0


def kill(options: Namespace) -> int:
    """Send a signal to the first process or, with `--all`, to every one; that also works when the first has ended."""
    number = _signal(options.signal)
    store = Store(options.root)
    record = store.read(options.id)
    status = container.status_of(store, record)
    if status == CREATING or (status == STOPPED and not options.all):
        raise NotFound("container not running")
    container.driver_for(store, record.id).signal(container.handle_of(record), number, everyone=options.all)
    return 0


def pause(options: Namespace) -> int:
    """Stop all processes where they are."""
    store = Store(options.root)
    with store.held(options.id) as record:
        container.require(
            record, container.status_of(store, record), (CREATED, RUNNING), "container not running or created"
        )
        container.driver_for(store, record.id).pause(container.handle_of(record))
    return 0


def resume(options: Namespace) -> int:
    """Let paused processes go on."""
    store = Store(options.root)
    with store.held(options.id) as record:
        container.require(record, container.status_of(store, record), (PAUSED,), "container not paused")
        container.driver_for(store, record.id).resume(container.handle_of(record))
    return 0


def delete(options: Namespace) -> int:
    """Remove every trace of a container; of one that still runs only with `--force`, which minds no missing one."""
    store = Store(options.root)
    try:
        if options.force:
            _end(store, store.read(options.id))
        with store.held(options.id) as record:
            status = container.status_of(store, record)
            if not options.force and status not in (STOPPED, CREATED):
                raise Conflict(f"cannot delete container {record.id} that is not stopped: {status}")
            container.delete(store, record)
    except NotFound:
        if not options.force:
            raise
    return 0


def _end(store: Store, record: Record) -> None:
    """Kill everything, without the lock: whoever holds it may wait for a process that hangs."""
    if record.handle is not None:
        with contextlib.suppress(NotFound):
            container.driver_for(store, record.id).signal(container.handle_of(record), signal.SIGKILL, everyone=True)


def _signal(text: str) -> int:
    if text.isdigit():
        return int(text)
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    with contextlib.suppress(KeyError):
        return signal.Signals[name]
    base, sign, offset = name.partition("+") if "+" in name else name.partition("-")
    edges = {"SIGRTMIN": signal.SIGRTMIN, "SIGRTMAX": signal.SIGRTMAX}
    if base in edges and offset.isdigit():
        return edges[base] + int(sign + offset)
    raise InvalidArgument(f"unknown signal {text!r}")
