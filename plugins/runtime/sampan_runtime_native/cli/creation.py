"""`create` and `run`."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from sampan.api.errors import InvalidArgument, SampanError, Unsupported
from sampan.api.runtime import CreateRequest, Handle, Stdio
from sampan_runtime_native.cli import container, streams
from sampan_runtime_native.cli.bundle import Bundle, load
from sampan_runtime_native.cli.children import call_in_child
from sampan_runtime_native.cli.store import Record, Store

Console = Callable[[], contextlib.AbstractContextManager[int]]
"""Gives the socket to which the process's terminal is to be sent."""


class _Wanted(NamedTuple):
    """A container as it was asked for: its bundle, and the number of descriptors that it gets beside its streams."""

    bundle: Bundle
    preserved: int

    @property
    def terminal(self) -> bool:
        return bool(self.bundle.spec["process"].get("terminal"))


def create(options: Namespace) -> int:
    """Make a container whose first process waits for `start`."""
    _create(options, _read(options, detached=True), lambda: streams.console(options.console_socket))
    return 0


def run(options: Namespace) -> int:
    """Create and start; unless detached, stay with the program to its end, delete the container and give its status."""
    wanted = _read(options, detached=options.detach)
    if options.detach:
        _start(options, _create(options, wanted, lambda: streams.console(options.console_socket)))
        return 0
    from sampan_runtime_native.cli.foreground import Foreground

    with Foreground(subreaper=not options.no_subreaper) as foreground:
        record = _create(options, wanted, lambda: contextlib.nullcontext(foreground.console()))
        _start(options, record)
        status = foreground.stay_with(record.pid)
    if not options.keep:
        store = Store(options.root)
        with store.held(options.id) as found:
            container.delete(store, found)
    return status


def _read(options: Namespace, *, detached: bool) -> _Wanted:
    for given, reason, remedy in (
        (
            options.no_pivot,
            "--no-pivot: a container always gets its root by pivot_root",
            "keep the root elsewhere than on initramfs",
        ),
        (
            options.no_new_keyring,
            "--no-new-keyring: a container always gets a session keyring of its own",
            "leave it out",
        ),
    ):
        if given:
            raise Unsupported(reason, remedy=remedy)
    bundle = load(options.bundle, options.id)
    if not isinstance(bundle.spec.get("process"), dict):
        raise InvalidArgument(f"{bundle.path}/config.json has no process")
    process, preserved = streams.descriptors(bundle.spec["process"], options.preserve_fds)
    terminal = bool(process.get("terminal"))
    streams.check_terminal(terminal=terminal, detached=detached, console_socket=options.console_socket)
    if terminal and not detached:
        process = streams.with_our_size(process)
    return _Wanted(bundle._replace(spec={**bundle.spec, "process": process}), preserved)


def _create(options: Namespace, wanted: _Wanted, console: Console) -> Record:
    """Make the container and its record, or neither. Killed on the way, it leaves a record for `delete`."""
    store, bundle = Store(options.root), wanted.bundle
    with store.new(options.id):
        record = Record(
            options.id, str(bundle.path), bundle.rootfs, str(bundle.spec["ociVersion"]), bundle.spec.get("annotations") or {},
            bundle.cgroup, container.now(), container.boot_id(),
        )  # fmt: skip
        store.write(record)
        try:
            with console() if wanted.terminal else contextlib.nullcontext(-1) as fd:
                stdio = (
                    Stdio(console=fd, preserved=wanted.preserved) if wanted.terminal else streams.own(wanted.preserved)
                )
                handle = _create_in_child(store, CreateRequest(options.id, bundle.path, bundle.spec, (), stdio))
        except SampanError:
            store.forget(options.id)  # the driver leaves nothing when it fails
            raise
        record = record._replace(handle=asdict(handle), born=container.birth_of(handle.pid))
        try:
            store.write(record)
            if options.pid_file:
                container.write_pid_file(options.pid_file, handle.pid)
        except BaseException:
            container.delete(store, record)
            raise
    return record


def _create_in_child(store: Store, request: CreateRequest) -> Handle:
    driver = container.driver_for(store, request.id)
    data: dict[str, Any] = call_in_child(lambda: asdict(driver.create(request)))
    return Handle(**data)


def _start(options: Namespace, record: Record) -> None:
    """Start what was created; a program that can't be started leaves no container, nor a pid file."""
    store = Store(options.root)
    with store.held(record.id) as found:
        try:
            container.driver_for(store, record.id).start(container.handle_of(found))
        except SampanError:
            container.delete(store, found)
            if options.pid_file:
                Path(options.pid_file).unlink(missing_ok=True)
            raise
