"""Children that read or write a tree which nobody vouches for: how the daemon starts one and hears from it.

The child's side is `confinement`. It is an interpreter of its own rather than a fork: a fork of the daemon would carry
its memory and its threads' locks.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from sampan.api.errors import System, Unavailable, from_wire

# -I and -S: neither the environment nor site directories have a say; the paths are ours.
_BOOT = """
import importlib, json, sys
sys.path[:] = json.loads(sys.argv.pop(2))
from sampan.content import confinement
confinement.main(importlib.import_module(sys.argv.pop(2)).run)
"""


class Child:
    """A confined child at work. `input` is its standard input, which `answer` closes."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, seconds: float | None) -> None:
        """Use `confined`."""
        self._process = process
        self._name = name
        self._seconds = seconds
        self._late = False
        self._timer = None if seconds is None else threading.Timer(seconds, self._end)
        self.input = cast(BinaryIO, process.stdin)

    def _end(self) -> None:
        self._late = True
        self._process.kill()

    def __enter__(self) -> Child:
        """Begin to count the time."""
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it if it still runs."""
        if self._timer is not None:
            self._timer.cancel()
        self._process.kill()
        self._process.communicate()

    def answer(self) -> dict[str, Any]:
        """Wait until it ends and give what its `run` gave.

        Raises what `run` raised, `Unavailable` if it took too long, `System` if it died.
        """
        out, err = self._process.communicate()
        if self._late:
            raise Unavailable(f"it took longer than {self._seconds:.0f} seconds", remedy="try again when the host is less busy")
        if self._process.returncode or not out:
            last = err.decode(errors="replace").strip().rpartition("\n")[2]
            status = self._process.returncode
            raise System(f"{self._name} ended with status {status}: {last or 'no message'}")
        answer = json.loads(out)
        if "error" in answer:
            raise from_wire(answer["error"])
        result: dict[str, Any] = answer["result"]
        return result


@contextmanager
def confined(
    module: str, request: Mapping[str, object], fds: Sequence[int], seconds: float | None = None
) -> Iterator[Child]:
    """Start `run(request)` of the module `module` in a child that has the descriptors `fds`; kill it on the way out.

    `seconds`: how long it may take. Raises `OSError` if it can't be started.
    """
    command = [sys.executable, "-I", "-S", "-c", _BOOT, json.dumps(request), json.dumps(sys.path), module]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=fds,
        env={"LC_ALL": "C.UTF-8"},
        start_new_session=True,
    )
    with Child(process, module.rpartition(".")[2], seconds) as child:
        yield child
