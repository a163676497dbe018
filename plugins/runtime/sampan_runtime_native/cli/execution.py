"""`exec`."""

from __future__ import annotations

import contextlib
import secrets
from argparse import Namespace
from pathlib import Path

from sampan.api.errors import Conflict, InvalidArgument, Unsupported
from sampan.api.runtime import ExecRequest, Spec, Stdio
from sampan_runtime_native.cli import bundle, container, streams
from sampan_runtime_native.cli.children import call_in_child
from sampan_runtime_native.cli.store import Record, Store


def execute(options: Namespace) -> int:
    """Run one more process; unless detached, stay with it and give its exit status."""
    if options.cgroup:
        raise Unsupported("--cgroup: a process joins the container's own cgroup", remedy="leave it out")
    store = Store(options.root)
    record = store.read(options.id)
    status = container.status_of(store, record)
    if status in (container.CREATING, container.STOPPED):
        raise Conflict(f"cannot exec in a {status} container")
    if status == container.PAUSED and not options.ignore_paused:
        raise Conflict("cannot exec in a paused container", remedy="--ignore-paused to override")
    process, preserved = streams.descriptors(_process(options, record), options.preserve_fds)
    terminal = bool(process.get("terminal"))
    streams.check_terminal(terminal=terminal, detached=options.detach, console_socket=options.console_socket)
    if options.detach:
        with streams.console(options.console_socket) if terminal else contextlib.nullcontext(-1) as console:
            stdio = Stdio(console=console, preserved=preserved) if terminal else streams.own(preserved)
            _exec(store, record, process, stdio, options.pid_file)
        return 0
    from sampan_runtime_native.cli.foreground import Foreground

    if terminal:
        process = streams.with_our_size(process)
    with Foreground() as foreground:
        stdio = Stdio(console=foreground.console(), preserved=preserved) if terminal else streams.own(preserved)
        return foreground.stay_with(_exec(store, record, process, stdio, options.pid_file))


def _exec(store: Store, record: Record, process: Spec, stdio: Stdio, pid_file: str) -> int:
    driver = container.driver_for(store, record.id)
    request = ExecRequest(secrets.token_hex(8), process, stdio)
    handle = container.handle_of(record)
    pid: int = call_in_child(lambda: driver.exec(handle, request))
    if pid_file:
        container.write_pid_file(pid_file, pid)
    return pid


def _process(options: Namespace, record: Record) -> Spec:
    """Give the process of `--process`, or that of the bundle with what the options change."""
    if options.process:
        return bundle.read_json(Path(options.process))
    if not options.args:
        raise InvalidArgument("exec args cannot be empty")
    base = bundle.read_json(Path(record.bundle) / "config.json").get("process") or {}
    user = dict(base.get("user") or {})
    for key, value in zip(("uid", "gid"), options.user, strict=True):
        if value is not None:
            user[key] = value
    if options.additional_gids:
        user["additionalGids"] = [*(user.get("additionalGids") or ()), *options.additional_gids]
    process = {
        **base, "args": options.args, "user": user, "terminal": options.tty, "env": [*(base.get("env") or ()), *options.env],
    }  # fmt: skip
    changes = {"cwd": options.cwd, "apparmorProfile": options.apparmor, "selinuxLabel": options.process_label}
    process.update({key: value for key, value in changes.items() if value})
    if options.no_new_privs:
        process["noNewPrivileges"] = True
    if options.cap:
        process["capabilities"] = _with_capabilities(base.get("capabilities") or {}, options.cap)
    return process


def _with_capabilities(sets: Spec, more: list[str]) -> Spec:
    """Add to the sets by which a process has a capability; to the ambient one only where it can have any, as runc does."""
    names = ["bounding", "effective", "permitted", *(["ambient"] if sets.get("inheritable") else [])]
    return {**sets, **{name: [*(sets.get(name) or ()), *more] for name in names}}
