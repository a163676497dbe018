"""A driver's call in a child of this process, so that the process it makes becomes a child of this one too.

A driver makes processes as siblings of its own (`CLONE_PARENT`), as a shim wants it. Called here directly, a container's
first process would be the child of whoever called this program. This way it is ours: to wait for, or, when we have ended,
the child of the caller's subreaper, where containerd and conmon look for it.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

from sampan.api.errors import System, from_wire
from sampan.linux.processes import fork
from sampan.linux.syscalls import PR_SET_PDEATHSIG, prctl


def call_in_child(operation: Callable[[], Any]) -> Any:
    """Run `operation` in a forked child and give its result, which must be JSON. Raises its `SampanError`."""
    reader, writer = os.pipe()
    caller = os.getpid()
    pid = fork()
    if pid == 0:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # with nobody to record what it makes, it is not to hold the container
        if os.getppid() == caller:
            _answer(operation, writer)
        os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        answer = answers.read()
    os.waitpid(pid, 0)
    if not answer:
        raise System("the process that makes the container died", remedy="see the kernel's log")
    decoded = json.loads(answer)
    if "error" in decoded:
        raise from_wire(decoded["error"])
    return decoded["result"]


def _answer(operation: Callable[[], Any], writer: int) -> None:
    code = 1
    try:
        os.write(writer, json.dumps(_outcome(operation)).encode())
        code = 0
    finally:
        os._exit(code)


def _outcome(operation: Callable[[], Any]) -> dict[str, Any]:
    from sampan.api.errors import SampanError, to_wire

    try:
        return {"result": operation()}
    except SampanError as error:
        return {"error": to_wire(error)}
    except BaseException as error:  # told to the caller: nothing may unwind into the parent's code
        return {"error": to_wire(System(f"{type(error).__name__}: {error}"))}
