"""The filters of `docker ps` and of prune."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sampan.api.errors import InvalidArgument, SampanError
from sampan.engine.container import Container
from sampan.engine.engine import Engine
from sampan.engine.records import Status

Test = Callable[[Engine, Container, str], bool]


def _label(engine: Engine, container: Container, value: str) -> bool:
    return matches_label(container.record.config.labels, value)


def matches_label(labels: Mapping[str, str], wanted: str) -> bool:
    """Say whether labels fit `key` or `key=value`."""
    key, separator, value = wanted.partition("=")
    return key in labels and (not separator or labels[key] == value)


def _status(engine: Engine, container: Container, value: str) -> bool:
    if value not in list(Status):
        raise InvalidArgument(f"invalid filter 'status={value}'")
    return container.status == value


def _exited(engine: Engine, container: Container, value: str) -> bool:
    if not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise InvalidArgument(f"invalid filter 'exited={value}'")
    return container.status is Status.EXITED and container.record.state.exit_code == int(value)


def _ancestor(engine: Engine, container: Container, value: str) -> bool:
    try:
        return engine.images.resolve(value).id == container.record.image_id
    except SampanError:
        return container.record.config.image == value


def _network(engine: Engine, container: Container, value: str) -> bool:
    try:
        name = engine.networks.resolve(value).name
    except SampanError:
        name = value  # it may have been removed; containers that stand still go by its name
    return name in container.record.networks


def _volume(engine: Engine, container: Container, value: str) -> bool:
    return any(value in (point.name, point.destination, point.source) for point in container.record.mounts)


def _before(engine: Engine, container: Container, value: str) -> bool:
    return container.record.created < engine.containers.get(value).record.created


def _since(engine: Engine, container: Container, value: str) -> bool:
    return container.record.created > engine.containers.get(value).record.created


def _port(engine: Engine, container: Container, value: str) -> bool:
    wanted = value if "/" in value else f"{value}/tcp"
    return wanted in container.record.host.port_bindings or wanted in container.record.config.exposed_ports


TESTS: Mapping[str, Test] = {
    "id": lambda engine, container, value: container.id.startswith(value),
    "name": lambda engine, container, value: value.removeprefix("/") in container.record.name,
    "label": _label,
    "status": _status,
    "exited": _exited,
    "ancestor": _ancestor,
    "network": _network,
    "volume": _volume,
    "before": _before,
    "since": _since,
    "publish": _port,
    "expose": _port,
}
ALL_MUST_FIT = ("label",)


def select(engine: Engine, containers: Sequence[Container], filters: Mapping[str, Sequence[str]]) -> list[Container]:
    """Give the containers that fit. Raises `InvalidArgument` for an unknown filter."""
    for name in filters:
        if name not in TESTS:
            raise InvalidArgument(f"invalid filter '{name}'")
    return [c for c in containers if all(_fits(engine, c, name, values) for name, values in filters.items())]


def _fits(engine: Engine, container: Container, name: str, values: Sequence[str]) -> bool:
    results = [TESTS[name](engine, container, value) for value in values]
    return all(results) if name in ALL_MUST_FIT else any(results)
