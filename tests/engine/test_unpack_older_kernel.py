"""Layers unpacked through a mount without a place on a kernel before 6.15: Debian's 6.1, in a VM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

VM = Path(__file__).parent.parent / "vm"


@pytest.mark.timeout(600)
def test_a_layer_goes_through_a_detached_mount() -> None:
    done = subprocess.run([VM / "boot", sys.executable, VM / "detached_unpack.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unpacked on 6.1." in done.stdout
