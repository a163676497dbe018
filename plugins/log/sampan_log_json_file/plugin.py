"""Registration of the log driver json-file."""

from __future__ import annotations

from collections.abc import Sequence

from sampan.api.hookspecs import hookimpl
from sampan.api.logs import LogDriver


@hookimpl
def sampan_register_log_drivers() -> Sequence[type[LogDriver]]:
    """Give the driver."""
    from sampan_log_json_file.driver import JsonFile

    return [JsonFile]
