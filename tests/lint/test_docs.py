"""The documentation says what the code has: every setting, route, command and error, and no link leads nowhere."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

import sampan.api
import sampan.testing
from sampan.api import errors, hookspecs
from sampan.api.driver import Driver
from sampan.cli.app import LazyGroup
from sampan.cli.app import root as command_line
from sampan.cli.daemon import daemon as daemon_command
from sampan.http.resources import ROUTES, unbuilt
from sampan.plugins import discover
from sampan.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"])
ADRS = sorted((DOCS / "adr").glob("[0-9]*.md"))
PUBLIC = sorted(
    f"{package.__name__}.{module.name}"
    for package in (sampan.api, sampan.testing)
    for module in pkgutil.iter_modules(package.__path__)
)

TABLES = {"runtime": "runtimes"}
"""Tables of config.toml that are not named as the kind: `runtime` is the default's name there."""


def reference(page: str) -> str:
    return (DOCS / "reference" / page).read_text()


# ---------------------------------------------------------------------- docstrings


@pytest.mark.parametrize("name", PUBLIC)
def test_public_things_say_what_they_are(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    assert [path for path, thing in public_things(module, name) if not (thing.__doc__ or "").strip()] == []


def public_things(owner: Any, path: str) -> list[tuple[str, Any]]:
    """Give the public classes and functions that a module or class defines itself, and theirs."""
    found: list[tuple[str, Any]] = []
    module = owner.__name__ if inspect.ismodule(owner) else owner.__module__
    for name, value in vars(owner).items():
        thing = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if name.startswith("_") or getattr(thing, "__module__", None) != module:
            continue
        if inspect.isclass(thing):
            found += [(f"{path}.{name}", thing), *public_things(thing, f"{path}.{name}")]
        elif inspect.isfunction(thing) or isinstance(thing, property):
            found.append((f"{path}.{name}", thing))
    return found


# ---------------------------------------------------------------------- reference pages


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_is_described(name: str) -> None:
    page = reference("configuration.md")
    if Settings.model_fields[name].annotation == dict[str, dict[str, Any]]:
        assert f"`[{name}." in page
        return
    assert f"`{name.replace('_', '-')}`" in page
    assert f"`SAMPAN_{name.upper()}`" in page


def test_every_default_is_told_right() -> None:
    rows = {cells[0]: cells for cells in table_rows(reference("configuration.md")) if len(cells) == 5}
    for name, info in Settings.model_fields.items():
        if info.default is None or info.annotation == dict[str, dict[str, Any]]:
            continue
        values = info.default if isinstance(info.default, tuple) else (info.default,)
        told = rows[f"`{name.replace('_', '-')}`"]
        for value in values:
            expected = str(value).lower() if isinstance(value, bool) else str(value)
            assert f"`{expected}`" in told[-2], f"{name}: {told}"


def test_every_flag_of_the_daemon_is_described() -> None:
    page = reference("configuration.md")
    flags = [option for parameter in daemon_command.params for option in parameter.opts]
    assert [flag for flag in flags if not re.search(rf"(?<![\w-]){flag}(?![\w-])", page)] == []


def test_every_setting_of_a_driver_is_described() -> None:
    page = reference("configuration.md")
    missing = []
    for registration in discover(entry_points(group="sampan")).registrations():
        if registration.distribution != "sampan":
            continue
        driver: type[Driver] = registration.driver
        for field in driver.config_model().model_fields:
            heading = f"[{TABLES.get(registration.kind, registration.kind)}.{driver.name}]"
            if heading not in page or f"`{field}`" not in page:
                missing.append(f"{heading} {field}")
    assert missing == []


class Table:
    """Takes routes as the router does, and remembers them."""

    def __init__(self) -> None:
        self.routes: list[str] = []

    def add(self, method: str, path: str, handler: object, **versions: object) -> None:
        self.routes.append(f"{method} {path}".replace(":path}", "}"))


def test_every_route_is_described_and_no_other() -> None:
    table = Table()
    for routes in ROUTES:
        routes(None).register(table)  # type: ignore[arg-type]
    told = re.findall(r"^\| `((?:GET|HEAD|POST|PUT|DELETE) /\S*)` \|", reference("api.md"), re.MULTILINE)
    assert len(told) == len(set(told))
    assert set(told) == set(table.routes)


def test_what_is_not_built_is_described() -> None:
    table = Table()
    unbuilt.register(table)  # type: ignore[arg-type]
    section = reference("api.md").partition("## Not built yet")[2].partition("\n## ")[0]
    told = re.findall(r"`([A-Z]+ /\S*)`", section)
    assert len(told) > 20
    assert sorted(told) == sorted(table.routes)


def test_every_error_is_described_with_its_status() -> None:
    page = reference("errors.md")
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.SampanError)]
    assert len(kinds) > 5
    for kind in kinds:
        if kind is not errors.SampanError:
            assert f"| `{kind.__name__}` | {kind.status} |" in page


def test_every_hook_is_described() -> None:
    page = reference("plugins.md")
    hooks = [name for name in vars(hookspecs) if name.startswith("sampan_")]
    assert len(hooks) > 5
    assert [name for name in hooks if f"`{name}" not in page] == []


def test_every_command_is_described() -> None:
    page = reference("cli.md")
    told = set(re.findall(r"`([a-z][a-z ]+)`", page))

    def commands(group: LazyGroup, path: str) -> list[str]:
        found = []
        for name, entry in group.table.items():
            command = entry.load()
            full = f"{path} {name}".strip()
            found += commands(command, full) if isinstance(command, LazyGroup) else [full]
        return found

    everything = commands(command_line, "")  # type: ignore[arg-type]
    assert len(everything) > 60
    short = re.compile("^(container|image) ")  # `container run` is `run`: to describe one is enough
    assert [name for name in everything if name not in told and short.sub("", name) not in told] == []


# ---------------------------------------------------------------------- pages


def table_rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Give the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text()
    pages = [page.relative_to(DOCS) for page in DOCS.rglob("*.md") if page != DOCS / "README.md"]
    assert [str(page) for page in pages if f"({page})" not in index and page.parent.name != "adr"] == []
    assert "(adr)" in index
    decisions = (DOCS / "adr" / "README.md").read_text()
    assert [page.name for page in ADRS if f"({page.name})" not in decisions] == []


@pytest.mark.parametrize("page", ADRS, ids=lambda path: path.name)
def test_a_decision_has_its_three_parts(page: Path) -> None:
    text = page.read_text()
    for part in ("Context", "Decision", "Consequences"):
        assert re.search(rf"^(## {part}|\*\*{part}[.*])", text, re.MULTILINE), f"{page.name} has no {part}"
    assert re.match(rf"# 0*{int(page.name[:4])}\b", text)


def test_decisions_are_numbered_once() -> None:
    numbers = [page.name[:4] for page in ADRS]
    assert len(numbers) == len(set(numbers)) > 5


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_in_a_page_imports_what_there_is(page: Path) -> None:
    missing = []
    for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        for node in ast.walk(ast.parse(code)):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(("sampan.", "sampan_runtime_oci.")):
                continue
            module = importlib.import_module(node.module or "")
            missing += [f"{node.module}.{alias.name}" for alias in node.names if not exists(module, alias.name)]
    assert missing == []


def exists(module: Any, name: str) -> bool:
    is_package = hasattr(module, "__path__")
    return hasattr(module, name) or (is_package and importlib.util.find_spec(f"{module.__name__}.{name}") is not None)
