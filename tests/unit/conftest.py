"""Fixtures of the unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from ground.launch import Run, runner


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a test of the launch processes, with a zygote and containers of its own."""
    return runner(tmp_path)
