"""Overlays on a kernel before 6.8, which takes all layers in one page of options: Debian's 6.1, in a VM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

VM = Path(__file__).parent.parent / "vm"


@pytest.mark.timeout(600)
def test_stacks_are_the_same() -> None:
    done = subprocess.run([VM / "boot", sys.executable, VM / "overlay_stacks.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stacked on 6.1." in done.stdout
