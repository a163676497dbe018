"""What newer kernels make easy, on Debian's 6.1 in a VM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

VM = Path(__file__).parent.parent / "vm"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("program", "told"),
    [
        pytest.param("overlay_stacks.py", "stacked on 6.1.", id="overlays whose layers go into one page of options"),
        pytest.param("detached_unpack.py", "unpacked on 6.1.", id="a layer unpacked through a mount without a place"),
    ],
)
def test_debians_kernel(program: str, told: str) -> None:
    done = subprocess.run([VM / "boot", sys.executable, VM / program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert told in done.stdout
