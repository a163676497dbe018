"""Finding plugins and choosing drivers: entry points in, driver classes out. Survives any plugin.

Rules (DESIGN §4): a plugin that fails to import is listed as broken and breaks nothing else; a name taken twice is an error
that names both distributions; a misspelt hook is reported; a driver of another major of the contract is refused;
`SAMPAN_DISABLED_PLUGINS` (commas) blocks entry points by name; an unknown driver name is answered with the known ones.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pluggy

from sampan.api import API_VERSION, hookspecs
from sampan.api.driver import Driver, Probe
from sampan.api.errors import InvalidArgument, SampanError, Unavailable

log = logging.getLogger(__name__)

D = TypeVar("D", bound=Driver)

KINDS: Mapping[str, str] = {
    "storage": "sampan_register_storage_drivers",
    "network": "sampan_register_network_drivers",
    "runtime": "sampan_register_runtime_drivers",
    "volume": "sampan_register_volume_drivers",
    "log": "sampan_register_log_drivers",
    "ipam": "sampan_register_ipam_drivers",
}
"""The kinds of driver, and the hook by which each registers."""

KNOWN_ELSEWHERE: Mapping[tuple[str, str], str] = {
    ("storage", "btrfs"): "sampan[btrfs]",
}
"""Distributions to install for driver names that are known but not here."""

NOT_BUILT: Mapping[tuple[str, str], str] = {
    ("network", "ipvlan"): "ipvlan is not built: macvlan too gives containers addresses of their own on a parent's network",
    ("network", "overlay"): "overlay needs a swarm, which is not built: vxlan joins the containers of several machines",
}
"""What to say of Docker's drivers that nobody offers for this engine."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*\Z")


@dataclass(frozen=True, slots=True)
class Registration:
    """A driver class and where it came from."""

    kind: str
    driver: type[Driver]
    plugin: str
    distribution: str
    version: str


@dataclass(frozen=True, slots=True)
class Broken:
    """A plugin or driver that can't be used, and why."""

    plugin: str
    distribution: str
    version: str
    reason: str


@dataclass(slots=True)
class Registry:
    """All plugins that were found: the drivers they gave, and what is wrong with the others."""

    manager: pluggy.PluginManager
    broken: list[Broken] = field(default_factory=list)
    _drivers: dict[tuple[str, str], Registration] = field(default_factory=dict)
    _conflicts: dict[tuple[str, str], str] = field(default_factory=dict)

    def registrations(self, kind: str | None = None) -> list[Registration]:
        """Give the usable drivers, sorted by kind and name."""
        return [self._drivers[key] for key in sorted(self._drivers) if kind in (None, key[0])]

    def names(self, kind: str) -> list[str]:
        """Give the names of the drivers of one kind."""
        return [registration.driver.name for registration in self.registrations(kind)]

    def driver(self, kind: str, name: str, base: type[D]) -> type[D]:
        """Give the class of the driver `name`, which derives from `base`.

        Raises `InvalidArgument` for an unknown name, with the known ones, and `Unavailable` for one claimed twice.
        """
        key = (kind, name)
        if key in self._conflicts:
            raise Unavailable(
                self._conflicts[key], remedy="uninstall one of them, or name it in SAMPAN_DISABLED_PLUGINS"
            )
        if key not in self._drivers:
            raise InvalidArgument(f"unknown {kind} driver {name!r}", remedy=self._remedy(kind, name))
        cls = self._drivers[key].driver
        assert issubclass(cls, base)
        return cls

    def _remedy(self, kind: str, name: str) -> str:
        text = f"known ones are {', '.join(self.names(kind)) or 'none'}"
        if package := KNOWN_ELSEWHERE.get((kind, name)):
            text += f"; {name} comes with: pip install '{package}'"
        if words := NOT_BUILT.get((kind, name)):
            text += f"; {words}"
        for broken in self.broken:
            if name in broken.plugin:
                text += f"; the plugin {broken.plugin} is installed but broken ({broken.reason})"
        return text

    def report(self, plugin: str, reason: str) -> None:
        """Note what is wrong with a plugin, under its entry point's name."""
        known = next((r for r in self._drivers.values() if r.plugin == plugin), None)
        self.broken.append(Broken(plugin, known.distribution if known else "", known.version if known else "", reason))

    def claim(self, registration: Registration) -> None:
        """Enter a driver, or note why it can't be entered."""
        cls = registration.driver
        if reason := _unfit(cls, registration.kind):
            self.broken.append(Broken(registration.plugin, registration.distribution, registration.version, reason))
            return
        key = (registration.kind, cls.name)
        if key in self._conflicts:
            self._conflicts[key] += f" and {registration.distribution}"
        elif first := self._drivers.pop(key, None):
            self._conflicts[key] = (
                f"{registration.kind} driver {cls.name!r} is claimed by both {first.distribution}"
                f" and {registration.distribution}"
            )
        else:
            self._drivers[key] = registration
            return
        self.broken.append(
            Broken(registration.plugin, registration.distribution, registration.version, self._conflicts[key])
        )


def _unfit(cls: Any, kind: str) -> str:
    """Say why a class can't be a driver of `kind`, or nothing."""
    if not (isinstance(cls, type) and issubclass(cls, _base(kind))):
        return f"{cls!r} is not a subclass of the {kind} contract ({_base(kind).__module__}.{_base(kind).__qualname__})"
    if not isinstance(getattr(cls, "name", None), str) or not _NAME.match(cls.name):
        return f"{cls.__qualname__} has no valid name"
    major, minor = cls.api_version
    if major != API_VERSION[0]:
        return (
            f"driver {cls.name!r} is written for contract {major}.{minor}, this is {API_VERSION[0]}.{API_VERSION[1]}:"
            f" install a version of it for contract {API_VERSION[0]}"
        )
    if minor > API_VERSION[1]:
        return f"driver {cls.name!r} needs contract {major}.{minor}, this is {API_VERSION[0]}.{API_VERSION[1]}: update sampan"
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        return f"driver {cls.name!r} does not implement {', '.join(missing)}"
    return ""


def _base(kind: str) -> type[Driver]:
    from sampan.api.ipam import IpamDriver
    from sampan.api.logs import LogDriver
    from sampan.api.network import NetworkDriver
    from sampan.api.runtime import RuntimeDriver
    from sampan.api.storage import StorageDriver
    from sampan.api.volume import VolumeDriver

    bases: dict[str, type[Driver]] = {
        "storage": StorageDriver,
        "network": NetworkDriver,
        "runtime": RuntimeDriver,
        "volume": VolumeDriver,
        "log": LogDriver,
        "ipam": IpamDriver,
    }
    return bases[kind]


def discover(
    entry_points: Iterable[importlib.metadata.EntryPoint] | None = None, blocked: Iterable[str] | None = None
) -> Registry:
    """Load every plugin and collect what they register. Never raises for a plugin's fault."""
    if entry_points is None:
        entry_points = importlib.metadata.entry_points(group=hookspecs.PROJECT)
    if blocked is None:
        blocked = os.environ.get("SAMPAN_DISABLED_PLUGINS", "").split(",")
    blocked = {name.strip() for name in blocked} - {""}
    registry = Registry(pluggy.PluginManager(hookspecs.PROJECT))
    registry.manager.add_hookspecs(hookspecs)
    seen: dict[str, str] = {}
    for entry_point in sorted(entry_points, key=lambda found: found.name):
        distribution, version = _origin(entry_point)
        if entry_point.name in blocked:
            continue
        if entry_point.name in seen:
            _report(
                registry,
                entry_point,
                f"entry point name is claimed by both {seen[entry_point.name]} and {distribution}",
            )
            continue
        seen[entry_point.name] = distribution
        _load(registry, entry_point)
    return registry


def _origin(entry_point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    if entry_point.dist is None:
        return entry_point.value, ""
    return entry_point.dist.name, entry_point.dist.version


def _report(registry: Registry, entry_point: importlib.metadata.EntryPoint, reason: str) -> None:
    distribution, version = _origin(entry_point)
    registry.broken.append(Broken(entry_point.name, distribution, version, reason))


def _load(registry: Registry, entry_point: importlib.metadata.EntryPoint) -> None:
    distribution, version = _origin(entry_point)
    try:
        plugin = entry_point.load()
        registry.manager.register(plugin, name=entry_point.name)
    except (Exception, SystemExit) as error:  # an import may raise anything
        log.warning("plugin %s failed to load", entry_point.name, exc_info=True)
        _report(registry, entry_point, f"{type(error).__name__}: {error}")
        return
    if misspelt := [
        name for name in dir(plugin) if name.startswith("sampan_") and _is_unknown_hook(registry, plugin, name)
    ]:
        _report(registry, entry_point, f"unknown hooks: {', '.join(misspelt)}")
    for kind, hook_name in KINDS.items():
        function = getattr(plugin, hook_name, None)
        if function is None or registry.manager.parse_hookimpl_opts(plugin, hook_name) is None:
            continue
        try:
            drivers: Sequence[type[Driver]] = tuple(function())
        except (Exception, SystemExit) as error:
            log.warning("plugin %s failed to register its %s drivers", entry_point.name, kind, exc_info=True)
            _report(registry, entry_point, f"{hook_name}: {type(error).__name__}: {error}")
            continue
        for driver in drivers:
            registry.claim(Registration(kind, driver, entry_point.name, distribution, version))


def _is_unknown_hook(registry: Registry, plugin: object, name: str) -> bool:
    marked = registry.manager.parse_hookimpl_opts(plugin, name) is not None
    return marked and not hasattr(hookspecs, name)


def probe(cls: type[Driver], root: Path) -> Probe:
    """Ask a driver class about the host; whatever it raises becomes a reason."""
    try:
        return cls.probe(root)
    except Exception as error:
        log.warning("probe of driver %s raised", cls.name, exc_info=True)
        return Probe(False, f"its probe failed: {type(error).__name__}: {error}")


def choose(
    registry: Registry,
    kind: str,
    base: type[D],
    root: Callable[[str], Path],
    *,
    configured: str | None,
    prior: str | None,
    priority: Sequence[str],
) -> tuple[type[D], Probe]:
    """Choose the default driver of a kind: the configured one, else the one used before, else the first that works.

    Raises `Unavailable` with the reason if the configured or earlier one fails its probe, or none works.
    """
    if wanted := configured or prior:
        cls = registry.driver(kind, wanted, base)
        found = probe(cls, root(wanted))
        if not found.supported:
            how = "configured" if configured else "used by this root before"
            raise Unavailable(f"{kind} driver {wanted!r} ({how}) does not work here: {found.reason}")
        return cls, found
    reasons = []
    for name in priority:
        try:
            cls = registry.driver(kind, name, base)
        except SampanError as error:
            reasons.append(str(error))
            continue
        found = probe(cls, root(name))
        if found.supported:
            return cls, found
        reasons.append(f"{name}: {found.reason}")
    raise Unavailable(f"no {kind} driver works here", remedy="; ".join(reasons))
