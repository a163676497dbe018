"""Lists on the terminal: columns as docker's tabwriter lays them out, and `--format`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MIN_WIDTH = 10
PADDING = 3


def columns(rows: Sequence[Sequence[str]], min_width: int = MIN_WIDTH, padding: int = PADDING) -> str:
    """Lay out rows: each cell but the last of a row is as wide as its column's widest, plus padding."""
    widths: list[int] = []
    for row in rows:
        for at, cell in enumerate(row[:-1]):
            if at == len(widths):
                widths.append(min_width)
            widths[at] = max(widths[at], len(cell) + padding)
    lines = []
    for row in rows:
        padded = [cell.ljust(widths[at]) for at, cell in enumerate(row[:-1])]
        lines.append("".join([*padded, *row[-1:]]) + "\n")
    return "".join(lines)


def show(
    rows: Iterable[Mapping[str, Any]],
    headers: Mapping[str, str],
    shown: Sequence[str],
    *,
    template: str | None = None,
    quiet: str = "",
) -> None:
    """Print rows of named fields as a table of the columns `shown`.

    `template` is docker's --format: `table` (with an optional template), `json`, or a template for each row;
    `quiet` names the one field to print instead.
    """
    if quiet and template is None:
        template = f"{{{{.{quiet}}}}}"
    if template in (None, "", "table"):
        lines = [[headers[name] for name in shown], *([str(row[name]) for name in shown] for row in rows)]
        sys.stdout.write(columns(lines))
        return
    assert template is not None
    from sampan.cli.gotemplate import Template

    if template == "json":
        template = "{{json .}}"
    template = template.replace(r"\t", "\t").replace(r"\n", "\n")
    if not template.startswith("table "):
        parsed = Template(template)
        for row in rows:
            sys.stdout.write(parsed.render(row) + "\n")
        return
    parsed = Template(template.removeprefix("table ").strip(" "))
    head = {name: _Header(text) for name, text in headers.items()}
    lines = [parsed.render(head).split("\t"), *(parsed.render(row).split("\t") for row in rows)]
    sys.stdout.write(columns(lines))


class _Header(str):
    """A column's title; asked as `.Label "x"`, it gives the label's name as docker does."""

    __slots__ = ()

    def __call__(self, name: str) -> str:
        return name


def show_objects(objects: Sequence[Any], template: str | None) -> None:
    """Print inspected objects: one indented JSON list, or the template for each."""
    if template == "json":
        template = "{{json .}}"
    if not template:
        sys.stdout.write(json.dumps(objects, indent=4, ensure_ascii=False) + "\n")
        return
    from sampan.cli.gotemplate import Template

    parsed = Template(template.replace(r"\t", "\t").replace(r"\n", "\n"))
    for item in objects:
        sys.stdout.write(parsed.render(item) + "\n")
