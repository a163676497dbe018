"""Limits that the daemon may not give: told where it lacks the right."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.api.types import Ulimit
from sampan.engine.reach import lowered, out_of_reach
from sampan.linux import capabilities


def in_child(ulimits: list[Ulimit], score: int) -> list[str]:
    """Ask for the warnings."""
    return in_child_of_few_rights(lambda: out_of_reach(ulimits, score))


def in_child_of_few_rights(ask: Callable[[], list[str]]) -> list[str]:
    """Ask in a process with small limits of its own and without CAP_SYS_RESOURCE."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
            sets = capabilities.current()
            effective = sets.effective & ~capabilities.mask(["CAP_SYS_RESOURCE"])
            capabilities.apply(capabilities.CapabilitySets(effective=effective, permitted=sets.permitted))
            os.write(writer, "\n".join(ask()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        lines = told.read().splitlines()
    os.waitpid(pid, 0)
    return lines


def ulimit(name: str, hard: int) -> Ulimit:
    return Ulimit(name=name, soft=hard, hard=hard)


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (ulimit("nofile", 200), []),
        (ulimit("nofile", 201), ["Ulimit nofile of 201 is cut to 200: the daemon has no more itself, and lacks CAP_SYS_RESOURCE"]),
        (ulimit("nofile", -1), ["Ulimit nofile of unlimited is cut to 200: the daemon has no more itself, and lacks CAP_SYS_RESOURCE"]),
        (ulimit("locks", 5), []),
    ],
)
def test_ulimits_above_the_daemons_own(limit: Ulimit, told: list[str]) -> None:
    assert in_child([limit], 0) == told


@pytest.mark.parametrize(
    ("asked", "given"), [((100, 300), (100, 200)), ((300, 300), (200, 200)), ((-1, -1), (200, 200)), ((5, 150), (5, 150))]
)
def test_ulimits_are_lowered_for_any_runtime(asked: tuple[int, int], given: tuple[int, int]) -> None:
    limit = Ulimit(name="nofile", soft=asked[0], hard=asked[1])
    assert in_child_of_few_rights(lambda: [str(lowered(limit).soft), str(lowered(limit).hard)]) == list(map(str, given))


def test_a_score_below_the_daemons_own() -> None:
    own = Path("/proc/self/oom_score_adj").read_text().strip()
    told = f"OomScoreAdj -1000 is left at {own}, which is the daemon's: to lower it needs CAP_SYS_RESOURCE"
    assert in_child([], -1000) == ([] if own == "-1000" else [told])
    assert in_child([], 500) == []
