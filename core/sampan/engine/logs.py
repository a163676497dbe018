"""Reading a container's log through its driver."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sampan import plugins
from sampan.api.logs import LogContext, LogDriver, LogQuery, LogRecord
from sampan.engine.container import Container


def read(
    registry: plugins.Registry, container: Container, *, since_ns: int, until_ns: int, tail: int | None, follow: bool
) -> AsyncIterator[LogRecord]:
    """Give the records asked for; with `follow` until the container stops. Raises `Unsupported` for an unreadable driver."""
    cls = registry.driver("log", container.record.log_driver, LogDriver)
    context = LogContext(container.id, container.directories.logs, container.record.host.log_config.config)
    live = follow and container.is_running
    ended = container.log_ended if live else None
    return cls.read(context, LogQuery(since_ns=since_ns, until_ns=until_ns, tail=tail, follow=live, ended=ended))
