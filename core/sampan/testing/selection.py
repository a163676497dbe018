"""Which tests of a suite apply to a driver: those of optional parts of the contract that it does not claim are taken out.

Taken out, not skipped: a skip that nobody can act on hides the one that somebody should see. What is not claimed must be
refused, and that is a test of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from sampan.api.driver import Driver, Probe

__all__ = ["DriverSuite", "needs", "needs_refusal"]


def needs(*capabilities: str) -> Callable[[Any], Any]:
    """Mark a test of parts of the contract that a driver may leave out."""

    def mark(test: Any) -> Any:
        test.needs = frozenset(capabilities)
        return test

    return mark


def needs_refusal(*capabilities: str) -> Callable[[Any], Any]:
    """Mark the test of how unclaimed parts are refused: it applies while one of these is not claimed."""

    def mark(test: Any) -> Any:
        test.refuses = frozenset(capabilities)
        return test

    return mark


class DriverSuite:
    """Base of the suites: a subclass that names a driver keeps only the tests that apply to it on this host."""

    driver_class: ClassVar[Any] = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Ask the driver's probe, and take out what does not apply. A driver that can't work here keeps all tests."""
        super().__init_subclass__(**keywords)
        if cls.driver_class is None:
            return
        probe = _probe(cls.driver_class)
        if not probe.supported:
            return
        for name in dir(cls):
            test = getattr(cls, name)
            refuses = getattr(test, "refuses", None)
            if getattr(test, "needs", frozenset()) - probe.capabilities or (refuses is not None and refuses <= probe.capabilities):
                setattr(cls, name, None)


def _probe(driver_class: type[Driver]) -> Probe:
    with tempfile.TemporaryDirectory(prefix="sampan-probe-") as directory:
        return driver_class.probe(Path(directory))
