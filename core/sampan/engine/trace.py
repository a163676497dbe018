"""Where the time went: spans of each create, start, stop and remove, kept with the container."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

MAX_SPANS = 512
"""The newest spans of a container that are kept."""


@dataclass(frozen=True, slots=True)
class Span:
    """One phase of an operation. Times of CLOCK_MONOTONIC in nanoseconds; `driver` is "" for the core itself."""

    operation: str
    phase: str
    driver: str
    start_ns: int
    end_ns: int


class Trace:
    """The spans of one container, newest last; saved as JSON beside its logs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spans: deque[Span] = deque(maxlen=MAX_SPANS)
        self._loaded = False

    @contextmanager
    def span(self, operation: str, phase: str, driver: str = "") -> Iterator[None]:
        """Time the body as one span, also when it raises."""
        start = time.monotonic_ns()
        try:
            yield
        finally:
            self._spans.append(Span(operation, phase, driver, start, time.monotonic_ns()))

    def extend(self, spans: Iterable[Span]) -> None:
        """Take spans that were measured elsewhere."""
        self._spans.extend(spans)

    def spans(self) -> list[Span]:
        """Give all spans, in order of their start."""
        self._load()
        return sorted(self._spans, key=lambda span: span.start_ns)

    def save(self) -> None:
        """Write the spans to disk; what a crash loses is only measurement."""
        self._load()
        if self._path.parent.is_dir():
            self._path.write_text(json.dumps([asdict(span) for span in self._spans]))

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        try:
            old = [Span(**item) for item in json.loads(self._path.read_text())]
        except (OSError, ValueError, TypeError):
            return
        self._spans = deque([*old, *self._spans], maxlen=MAX_SPANS)
