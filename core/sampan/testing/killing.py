"""A kill -9 at a chosen place of our code: so that every place where an operation can be cut off is tried, once each."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from threading import Event
from types import FrameType
from typing import Any, TypeVar

__all__ = ["Place", "killed_at", "killed_before_line", "places_of_change"]

T = TypeVar("T")

Place = tuple[str, int]
"""A line of Sampan's or a driver's code: file and number."""


def killed_before_line(number: int, make_ready: Callable[[], T], action: Callable[[T], object]) -> bool:
    """Run `action` on what `make_ready` gave, in a child that is killed before the `number`th line of Sampan's or a driver's
    code that the action comes to for the first time, in any thread. Tell whether it was: False means that the action ended
    before.
    """

    def arrive(place: Place, count: int) -> None:
        if count >= number:
            os.kill(os.getpid(), signal.SIGKILL)

    return _in_child(make_ready, action, arrive)


def killed_at(place: Place, make_ready: Callable[[], T], action: Callable[[T], object]) -> bool:
    """As `killed_before_line`, before the line at `place`."""

    def arrive(here: Place, count: int) -> None:
        if here == place:
            os.kill(os.getpid(), signal.SIGKILL)

    return _in_child(make_ready, action, arrive)


def places_of_change(look: Callable[[], object], make_ready: Callable[[], T], action: Callable[[T], object]) -> list[Place]:
    """Run `action` in a child, and give the lines before which `look` saw another thing than before the line before.

    Where a kill leaves only what `look` sees, to be killed at one of these, or at the first line, is all that can happen.
    `look` is called in whatever thread comes to a line, in one at a time.
    """
    reader, writer = os.pipe()
    seen: list[object] = []

    def arrive(place: Place, count: int) -> None:
        now = look()
        if not seen or now != seen[-1]:
            seen.append(now)
            os.write(writer, json.dumps(place).encode() + b"\n")

    try:
        assert not _in_child(make_ready, action, arrive)
    finally:
        os.close(writer)
        with os.fdopen(reader) as lines:
            places = [(str(file), int(line)) for file, line in map(json.loads, lines)]
    return places


def _in_child(make_ready: Callable[[], T], action: Callable[[T], object], arrive: Callable[[Place, int], None]) -> bool:
    """Run the action in a child, tell `arrive` each line that it comes to for the first time and how many that were, and say
    whether the child was killed.
    """
    pid = os.fork()
    if pid == 0:
        armed = Event()
        tracer = _tracer(armed, arrive)
        try:
            threading.settrace(tracer)  # threads that are made ready may do the action's work
            sys.settrace(tracer)
            ready = make_ready()
            armed.set()
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


def _tracer(armed: Event, arrive: Callable[[Place, int], None]) -> Callable[[FrameType, str, Any], Any]:
    seen: set[Place] = set()
    one_at_a_time = threading.Lock()

    def trace_line(frame: FrameType, event: str, _: Any) -> Any:
        place = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and place not in seen:
            with one_at_a_time:
                seen.add(place)
                arrive(place, len(seen))
        return trace_line

    def trace_call(frame: FrameType, event: str, _: Any) -> Any:
        return trace_line if armed.is_set() and "sampan" in frame.f_code.co_filename else None

    return trace_call
