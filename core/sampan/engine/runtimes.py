"""The runtimes that containers can have: the installed drivers, and what the settings make of them under other names.

A table `[runtimes.NAME]` holds the settings of the driver NAME, or with `driver = "…"` those of that driver for the containers
that ask for NAME: one program with two sets of options, or a program that is nobody's driver.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from sampan import plugins
from sampan.api.driver import Probe
from sampan.api.errors import InvalidArgument, Unsupported
from sampan.api.runtime import RuntimeCapability, RuntimeDriver
from sampan.api.types import HostConfig
from sampan.engine.drivers import driver_config
from sampan.settings import Settings

DRIVER = "driver"
"""The key by which a table names the driver that it is for."""

WITHOUT_NETWORK = ("none", "host", "sampan-driver:none", "sampan-driver:host")
"""Network modes for which a runtime need not take a network of the engine's making."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime by its name: the driver's class, and its settings as plain data."""

    name: str
    driver: type[RuntimeDriver]
    config: dict[str, Any]


class Runtimes:
    """Finds runtimes and knows what they can. A probe that found one working counts until the daemon ends."""

    def __init__(self, settings: Settings, registry: plugins.Registry) -> None:
        self._settings = settings
        self._registry = registry
        self._probes: dict[type[RuntimeDriver], Probe] = {}

    @property
    def default(self) -> str:
        """The name of the runtime of containers that ask for none."""
        return self._settings.runtime

    def names(self) -> list[str]:
        """Give the names of all: installed and set."""
        return sorted({*self._registry.names("runtime"), *self._settings.runtimes})

    def driver(self, name: str) -> type[RuntimeDriver]:
        """Give a runtime's driver. Raises `InvalidArgument` for an unknown name."""
        driver = self._settings.runtimes.get(name, {}).get(DRIVER, name)
        if not isinstance(driver, str):
            raise InvalidArgument(f"settings [runtimes.{name}]: driver: {driver!r} is no driver's name")
        try:
            return self._registry.driver("runtime", driver, RuntimeDriver)
        except InvalidArgument as error:
            if driver != name:
                raise InvalidArgument(f"settings [runtimes.{name}]: {error.message}", remedy=error.remedy) from error
            raise

    def find(self, name: str) -> Runtime:
        """Give a runtime with its settings. Raises `InvalidArgument` for an unknown name and for settings that are wrong."""
        driver = self.driver(name)
        values = {key: value for key, value in self._settings.runtimes.get(name, {}).items() if key != DRIVER}
        return Runtime(name, driver, driver_config(driver, values, "runtimes").model_dump(mode="json"))

    async def probe(self, name: str) -> Probe:
        """Give what a runtime's driver can do here, and why not what it can't. Raises as `driver`."""
        driver = self.driver(name)
        if (known := self._probes.get(driver)) is not None:
            return known
        found = await asyncio.to_thread(plugins.probe, driver, self._settings.root)
        if found.supported:
            self._probes[driver] = found
        return found

    async def check(self, name: str, host: HostConfig, *, remapped: bool) -> None:
        """Refuse what a runtime can't give a container before it is tried. Raises `Unsupported`, and as `driver`.

        `remapped`: the daemon gives its containers user namespaces, unless they ask for the host's.
        """
        found = await self.probe(name)
        can = found.capabilities
        if can and remapped and host.userns_mode != "host" and RuntimeCapability.USER_NAMESPACE not in can:
            reason = found.lacks.get(RuntimeCapability.USER_NAMESPACE, "it has none")
            raise Unsupported(
                f"runtime {name!r} can't give a container a user namespace: {reason}",
                remedy="use another --runtime, or add --userns=host",
            )
        if can and RuntimeCapability.OWN_NETWORK not in can and host.network_mode not in WITHOUT_NETWORK:
            raise Unsupported(
                f"runtime {name!r} can't join network mode {host.network_mode!r}: it takes no network of the engine's",
                remedy="use --network none or --network host, or another --runtime",
            )
