"""Limits that the daemon itself may not give: lowered to what it may, and told at create, since the start has no warnings in
Docker's API. Else a runtime would fail on them.

Source: `getrlimit(2)`, `proc_pid_oom_score_adj(5)`.
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


def lowered(limit: Ulimit) -> Ulimit:
    """Give the limit as the daemon may set it: at most its own hard one, where it has no right to more."""
    ceiling = resource.getrlimit(NUMBERS[f"RLIMIT_{limit.name.upper()}"])[1]
    if ceiling == resource.RLIM_INFINITY or 0 <= limit.hard <= ceiling or _may_raise():
        return limit
    return Ulimit(name=limit.name, soft=limit.soft if 0 <= limit.soft <= ceiling else ceiling, hard=ceiling)


def raised(oom_score_adj: int) -> int:
    """Give the score as the daemon may set it: not below its own, where it has no right to less."""
    if oom_score_adj >= 0:
        return oom_score_adj
    own = int(Path("/proc/self/oom_score_adj").read_text())
    return oom_score_adj if oom_score_adj >= own or _may_raise() else own


def out_of_reach(ulimits: Iterable[Ulimit], oom_score_adj: int) -> list[str]:
    """Give a warning for each that is `lowered` or `raised`."""
    warnings: list[str] = []
    for limit in ulimits:
        given = lowered(limit)
        if given.hard != limit.hard:
            asked = "unlimited" if limit.hard < 0 else str(limit.hard)
            warnings.append(f"Ulimit {limit.name} of {asked} is cut to {given.hard}: the daemon has no more itself, and lacks {_RIGHT}")
    own = raised(oom_score_adj)
    if own != oom_score_adj:
        warnings.append(f"OomScoreAdj {oom_score_adj} is left at {own}, which is the daemon's: to lower it needs {_RIGHT}")
    return warnings


def _may_raise() -> bool:
    return bool(current().effective & mask([_RIGHT]))
