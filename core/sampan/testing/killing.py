"""A kill -9 before a chosen line of our code: so that every place where an operation can be cut off is tried, once each."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


def killed_before_line(number: int, make_ready: Callable[[], T], action: Callable[[T], object]) -> bool:
    """Run `action` on what `make_ready` gave, in a child that is killed before the `number`th line of Sampan's or a driver's
    code that the action comes to for the first time. Tell whether it was: False means that the action ended before.
    """
    pid = os.fork()
    if pid == 0:
        try:
            ready = make_ready()
            sys.settrace(_killer(number))
            action(ready)
        except BaseException as error:
            sys.settrace(None)
            os.write(2, f"the action to be killed failed: {type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), "the child failed by itself: see its standard error"
    return code != 0


def _killer(number: int) -> Callable[[FrameType, str, Any], Any]:
    seen: set[tuple[str, int]] = set()

    def trace_line(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
            if len(seen) >= number:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace_line

    def trace_call(frame: FrameType, event: str, _: Any) -> Any:
        return trace_line if "sampan" in frame.f_code.co_filename else None

    return trace_call
