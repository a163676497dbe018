"""What no file of the project may hold."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
THIS = Path(__file__).resolve()

UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
OUTSIDE = re.compile(r"\.\./" + r"shared\b|/work/" + r"(shared|main)\b")
MAY_PRINT = ("core/sampan/cli/", "tools/")


def tracked() -> list[Path]:
    """Give the project's files: what git has, and what is new and not ignored."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):  # a source archive is no git checkout
        tops = ("core", "plugins", "tests", "docs", "tools")
        listed = [str(path.relative_to(ROOT)) for top in tops for path in (ROOT / top).rglob("*")]
    paths = [ROOT / name for name in listed if name and "__pycache__" not in name]
    return [path for path in paths if path.is_file() and path != THIS]


FILES = tracked()
TEXTS = [path for path in FILES if path.suffix in {".py", ".md", ".toml", ".nft", ".sh", ""}]
CODE = [path for path in FILES if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in ("core", "plugins")]


def offences(paths: list[Path], pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]


def test_the_files_are_found() -> None:
    assert len(CODE) > 100
    assert ROOT / "README.md" in TEXTS


def test_nothing_is_left_for_later() -> None:
    assert offences([path for path in TEXTS if path.suffix == ".py"], UNFINISHED) == []


def test_nothing_outside_the_project_is_named() -> None:
    assert offences(TEXTS, OUTSIDE) == []


def test_every_module_is_named_after_what_it_has() -> None:
    vague = {"utils.py", "util.py", "helpers.py", "misc.py", "common.py", "tools.py"}
    assert [path for path in FILES if path.name in vague] == []


def test_only_the_client_prints() -> None:
    found = []
    for path in CODE:
        if str(path.relative_to(ROOT)).startswith(MAY_PRINT):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


@pytest.mark.parametrize("line", ["x = 1  # " + "TODO: later", "# " + "FIXME"])
def test_the_pattern_finds_what_it_is_for(line: str) -> None:
    assert UNFINISHED.search(line)
