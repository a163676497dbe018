"""A container's log: what its driver is told of the container, and reading it back."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from sampan import plugins
from sampan.api.logs import LogContext, LogDriver, LogQuery, LogRecord
from sampan.engine.container import Container
from sampan.engine.records import ContainerRecord


def read(
    registry: plugins.Registry, container: Container, *, since_ns: int, until_ns: int, tail: int | None, follow: bool
) -> AsyncIterator[LogRecord]:
    """Give the records asked for; with `follow` until the container stops. Raises `Unsupported` for an unreadable driver."""
    cls = registry.driver("log", container.record.log_driver, LogDriver)
    context = LogContext(container.id, str(container.directories.logs), container.record.host.log_config.config)
    live = follow and container.is_running
    ended = container.log_ended if live else None
    return cls.read(context, LogQuery(since_ns=since_ns, until_ns=until_ns, tail=tail, follow=live, ended=ended))


def attributes(record: ContainerRecord) -> dict[str, str]:
    """Give what the log options `labels`, `labels-regex`, `env`, `env-regex` and `tag` choose of a container, as Docker does."""
    options = record.host.log_config.config
    variables = dict(item.split("=", 1) for item in record.config.env if "=" in item)
    chosen: dict[str, str] = {}
    for kind, values in (("labels", record.config.labels), ("env", variables)):
        named = options.get(kind, "").split(",")
        pattern = options.get(f"{kind}-regex")
        for key, value in values.items():
            if key in named or (pattern and re.search(pattern, key)):
                chosen[key] = value
    if tag := options.get("tag"):
        chosen["tag"] = _tag(tag, record)
    return chosen


def _tag(template: str, record: ContainerRecord) -> str:
    fields = {
        "ID": record.id[:12],
        "FullID": record.id,
        "Name": record.name,
        "ImageID": record.image_id.removeprefix("sha256:")[:12],
        "ImageFullID": record.image_id,
        "ImageName": record.config.image,
        "DaemonName": "sampan",
    }
    return re.sub(r"\{\{\s*\.(\w+)\s*\}\}", lambda match: fields.get(match[1], match[0]), template)
