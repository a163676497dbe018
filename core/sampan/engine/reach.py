"""Limits that the daemon itself may not give: told at create, since the start has no warnings in Docker's API.

A runtime lowers them to what is possible (native) or fails. Source: `getrlimit(2)`, `proc_pid_oom_score_adj(5)`.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from sampan.api.types import Ulimit
from sampan.linux.capabilities import current, mask
from sampan.linux.rlimits import NUMBERS

_RIGHT: Final = "CAP_SYS_RESOURCE"


def out_of_reach(ulimits: Iterable[Ulimit], oom_score_adj: int) -> list[str]:
    """Give a warning for each limit above the daemon's own, and for a score below its own, where it has no right to those."""
    if current().effective & mask([_RIGHT]):
        return []
    warnings: list[str] = []
    for limit in ulimits:
        ceiling = resource.getrlimit(NUMBERS[f"RLIMIT_{limit.name.upper()}"])[1]
        if ceiling != resource.RLIM_INFINITY and not 0 <= limit.hard <= ceiling:
            asked = "unlimited" if limit.hard < 0 else str(limit.hard)
            warnings.append(f"Ulimit {limit.name} of {asked} is cut to {ceiling}: the daemon has no more itself, and lacks {_RIGHT}")
    own = int(Path("/proc/self/oom_score_adj").read_text())
    if oom_score_adj < min(own, 0):
        warnings.append(f"OomScoreAdj {oom_score_adj} is left at {own}, which is the daemon's: to lower it needs {_RIGHT}")
    return warnings
