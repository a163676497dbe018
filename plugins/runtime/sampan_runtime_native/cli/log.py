"""The log of `--log`: a line per record, as text or as JSON, in the form that callers of runc read."""

from __future__ import annotations

import json
import logging
import sys
import time

_LEVELS = {logging.WARNING: "warning", logging.ERROR: "error", logging.INFO: "info", logging.DEBUG: "debug"}


def configure(path: str, form: str, *, debug: bool) -> None:
    """Send what is logged to the end of the file `path`. Where that is empty, stderr is the new process's as well, and gets
    errors only, unless with `debug`. Raises `OSError`.
    """
    handler = logging.FileHandler(path) if path else logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if debug else logging.INFO if path else logging.ERROR)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"time={json.dumps(_time(record))} level={_level(record)} msg={json.dumps(record.getMessage())}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"level": _level(record), "msg": record.getMessage(), "time": _time(record)})


def _level(record: logging.LogRecord) -> str:
    return _LEVELS.get(record.levelno, "error")


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
