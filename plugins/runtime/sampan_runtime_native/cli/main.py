"""The way of one command: its line parsed, its module imported, its error told."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from sampan.api.errors import SampanError, Unsupported
from sampan_runtime_native.cli.options import parse

if TYPE_CHECKING:
    from collections.abc import Sequence


def run(line: Sequence[str]) -> int:
    """Run a command and give the exit status: that of the container's process for `run` and `exec`; otherwise 0, or 1
    for an error, which is told on stderr and in the log."""
    options = parse(line)
    try:
        if options.log or options.logs:
            from sampan_runtime_native.cli.log import configure

            configure(options.log, options.log_format, debug=options.debug)
        if options.needs_root and os.geteuid() != 0:
            raise Unsupported("containers without root are not built", remedy="run sampan-runtime as root")
        module, _, function = options.target.partition(":")
        status: int = getattr(import_module(f"sampan_runtime_native.cli.{module}"), function)(options)
    except SampanError as error:
        return _fail(options.log, str(error), options.failure)
    except OSError as error:
        return _fail(options.log, f"{options.command}: {error}", options.failure)
    except Exception as error:
        _fail(options.log, f"{options.command}: {type(error).__name__}: {error}: please report this", options.failure)
        raise
    return status


def _fail(log: str, message: str, status: int) -> int:
    """Tell the error on stderr, and in the log where callers such as containerd look for it."""
    if log:
        import logging

        logging.getLogger(__name__).error("%s", message)
    sys.stderr.write(f"sampan-runtime: {message}\n")
    return status
