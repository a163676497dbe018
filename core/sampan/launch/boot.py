"""Where the zygote's process begins: before anything of ours or of the library is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


def boot() -> None:
    """Be the zygote on the socket whose descriptor is the first argument; the second is the executable's, needed no more."""
    os.close(int(sys.argv[2]))
    serve = _import_without_fork_hooks()
    serve(int(sys.argv[1]))


def _import_without_fork_hooks() -> Callable[[int], None]:
    """Import the zygote while the library can't ask to be called after a fork.

    `threading` and `logging` make their locks anew in every child. This process has one thread, so that no lock
    is held when it forks; but their hooks write to 650 kB of memory that a child would share otherwise, and that
    in each shim and each operation (measured: 830 kB private after `os.fork`, 180–240 kB without the hooks).
    Drivers are imported later; their hooks are called.
    """
    register = os.register_at_fork
    os.register_at_fork = _ignore
    try:
        from sampan.launch.zygote import main
    finally:
        os.register_at_fork = register
    return main


def _ignore(**hooks: object) -> None:
    """Stand for `os.register_at_fork`."""
