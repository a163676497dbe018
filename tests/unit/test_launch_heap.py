"""The zygote's heap before its first fork."""

from __future__ import annotations

import subprocess
import sys

POOLS_OF_NEW_OBJECTS = """
import sys
from sampan.launch.heap import POOL, POOL_HEADER, fill_holes

def pools(size):
    return len({id(each) // POOL for each in [bytes(size) for _ in range(100)]})

many = [bytes(size) for size in (48, 200, 470) for _ in range(4_000)]
many = [each for number, each in enumerate(many) if number % 8 or id(each) % POOL == POOL_HEADER]
if sys.argv[1:]:
    fill_holes()
print(max(pools(size) for size in (48, 200, 470)))
"""


def test_new_objects_lie_together_behind_filled_holes() -> None:
    assert _pools() > 10
    assert _pools("fill") <= 4


def _pools(*arguments: str) -> int:
    command = [sys.executable, "-c", POOLS_OF_NEW_OBJECTS, *arguments]
    return int(subprocess.run(command, check=True, capture_output=True).stdout)
