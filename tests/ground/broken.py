"""Deliberately broken builds: copies of the engine with a guard taken out, in which an attack must get through.

A test of an attack that cannot get through any build proves nothing. So the very same test is run against a copy of the
sources in which a few lines are changed, and must fail there, and for the right reason.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 100.0


@dataclass(frozen=True)
class Change:
    """One place of the sources: `file` as it is imported (`sampan/linux/files.py`), where `old` stands once and `new` comes."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Broken:
    """A build without a guard: what is changed, the test that must fail in it, and what that test then says."""

    case: str
    guard: str
    changes: tuple[Change, ...]
    test: str
    says: str

    def __str__(self) -> str:
        return f"{self.case} without {self.guard}"


def build(broken: Broken, directory: Path) -> Path:
    """Copy the packages into the new directory, change them, and give it: first on PYTHONPATH it is the engine."""
    packages = [ROOT / "core/sampan", *(ROOT / "plugins").glob("*/sampan_*")]
    for package in packages:
        shutil.copytree(package, directory / package.name)  # with times, so that what is compiled already stays so
    for change in broken.changes:
        path = directory / change.file
        text = path.read_text()
        found = text.count(change.old)
        assert found == 1, f"the guard has moved: {change.old!r} stands {found} times in {change.file}; name its place anew"
        path.write_text(text.replace(change.old, change.new))
    return directory


def run_in(build: Path, test: str) -> str:
    """Run a test against that build and give what pytest says. It must have run, and failed."""
    environment = os.environ | {"PYTHONPATH": str(build)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=short", test]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 1, f"the attack does not get through ({done.returncode}):\n{done.stdout[-3000:]}{done.stderr[-1000:]}"
    return done.stdout


def check_bites(broken: Broken, directory: Path) -> None:
    """See that the attack gets through the broken build."""
    output = run_in(build(broken, directory / "build"), broken.test)
    assert re.search(broken.says, output), f"it failed, but not for what was taken out:\n{output[-3000:]}"
