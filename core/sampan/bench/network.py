"""Network drivers measured through their contract: what a start waits for, on a host that is a network namespace of its own."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from sampan import plugins
from sampan.api.errors import SampanError
from sampan.api.network import Endpoint, Network, NetworkCapability, NetworkContext, NetworkDriver, PortMapping, Subnet
from sampan.bench.report import Measurement, Report
from sampan.linux.namespaces import call_in_netns, new_netns

SANDBOX = "make a sandbox"
ATTACH = "attach"
PREPARE = "prepare a sandbox"
ATTACH_PREPARED = "attach a prepared one"
DETACH = "detach"
PUBLISH = "attach, {} ports as a range"
PUBLISH_MOVED = "attach, {} ports with other numbers inside"

PORTS = (1, 32, 206, 1000)

_ENGINE = "be9cbe9c"
_SUBNET = Subnet("10.99.0.0/16", "10.99.0.1")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: every case `rounds` times; ports in these numbers."""

    rounds: int = 20
    ports: Sequence[int] = PORTS


@dataclass(frozen=True, slots=True)
class Subject:
    """A driver's class with its settings, and the options of the network that is measured."""

    driver: type[NetworkDriver]
    settings: Mapping[str, object] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


def find(driver: str, options: Mapping[str, str] | None = None) -> Subject:
    """Give the installed driver of that name, with its default settings. Raises `InvalidArgument` for an unknown one."""
    return Subject(plugins.discover().driver("network", driver, NetworkDriver), options=options or {})


def measure(subjects: Sequence[Subject], plan: Plan, tell: Callable[[str], None]) -> Report:
    """Measure each driver; one that does not work here has a note that says why. Raises what a driver raises."""
    found: list[Measurement] = []
    for subject in subjects:
        with tempfile.TemporaryDirectory(prefix="sampan-bench-") as state:
            probe = subject.driver.probe(Path(state))
            if not probe.supported:
                found.append(Measurement(subject.driver.name, ATTACH, (), probe.reason))
                continue
            tell(f"{subject.driver.name}: {plan.rounds} rounds")
            bench = _Bench(subject, plan, Path(state), probe.capabilities)
            host = new_netns()
            try:
                call_in_netns(host, bench.run)
            except SampanError as error:
                found.append(Measurement(subject.driver.name, ATTACH, (), str(error)))
                continue
            finally:
                os.close(host)
            found += bench.measurements()
    return Report("network drivers, medians", tuple(found))


class _Bench:
    """One driver, and what was measured so far. All of it happens in the network namespace of the thread that runs it."""

    def __init__(self, subject: Subject, plan: Plan, state: Path, capabilities: frozenset[str]) -> None:
        cls = subject.driver
        self._name = cls.name
        self._plan = plan
        self._capabilities = capabilities
        self._driver = cls(NetworkContext(state, _ENGINE), cls.config_model().model_validate(subject.settings))
        subnets = (_SUBNET,) if NetworkCapability.ADDRESSES in capabilities else ()
        self._network = Network("be" * 32, "bench", cls.name, subnets, options=subject.options)
        self._seconds: dict[str, list[float]] = {}
        self._number = 0

    def measurements(self) -> list[Measurement]:
        """Give what the rounds took."""
        return [Measurement(self._name, case, tuple(seconds)) for case, seconds in self._seconds.items()]

    def run(self) -> None:
        """Measure every case in every round, so that a noisy host is noisy for all of them."""
        self._driver.open(())
        self._driver.create_network(self._network)
        try:
            for _ in range(self._plan.rounds):
                self._round()
        finally:
            self._driver.gc((), ())
            self._driver.close()

    def _round(self) -> None:
        with self._sandbox() as netns, self._attached(ATTACH, netns, self._endpoint()):
            pass
        if NetworkCapability.PREPARE in self._capabilities:
            with self._sandbox() as netns:
                endpoint = self._endpoint()
                with self._timed(PREPARE):
                    self._driver.prepare(self._network, replace(endpoint, ipv4=None), netns)
                with self._attached(ATTACH_PREPARED, netns, endpoint):
                    pass
        if NetworkCapability.PUBLISH in self._capabilities:
            for count in self._plan.ports:
                for case, first in ((PUBLISH, 20000), (PUBLISH_MOVED, 10000)):
                    ports = (PortMapping("tcp", first, 20000, count=count),)
                    with self._sandbox() as netns, self._attached(case.format(count), netns, self._endpoint(ports)):
                        pass

    def _endpoint(self, ports: Sequence[PortMapping] = ()) -> Endpoint:
        self._number += 1
        address = f"10.99.{1 + self._number // 250}.{1 + self._number % 250}/16" if self._network.subnets else None
        return Endpoint(f"{self._number:07x}" + "be" * 28, self._network.id, "be" * 32, ipv4=address, ports=tuple(ports))

    @contextmanager
    def _sandbox(self) -> Iterator[int]:
        with self._timed(SANDBOX):
            netns = new_netns()
        try:
            yield netns
        finally:
            os.close(netns)

    @contextmanager
    def _attached(self, case: str, netns: int, endpoint: Endpoint) -> Iterator[None]:
        with self._timed(case):
            made = self._driver.attach(self._network, endpoint, netns)
        try:
            yield
        finally:
            with self._timed(DETACH):
                self._driver.detach(self._network, replace(endpoint, ports=made.ports))

    @contextmanager
    def _timed(self, case: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds.setdefault(case, []).append(time.perf_counter() - start)
