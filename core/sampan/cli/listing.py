"""Options that every list has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def list_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add -f/--filter, --format, -q/--quiet and --no-trunc."""
    for option in (
        click.option("--no-trunc", is_flag=True, help="Do not shorten the output."),
        click.option("-q", "--quiet", is_flag=True, help="Show only ids or names."),
        click.option("--format", "template", metavar="FORMAT", help="table, json, `table TEMPLATE` or a Go template."),
        click.option("-f", "--filter", "filters", multiple=True, metavar="NAME=VALUE", help="Show only what matches."),
    ):
        function = option(function)
    return function


def short_id(identity: str, no_trunc: bool) -> str:
    """Give the first twelve digits of an id, or all of it."""
    return identity if no_trunc else identity.removeprefix("sha256:")[:12]


def ellipsis(text: str, width: int) -> str:
    """Cut a text to `width` letters, the last of them then `…`."""
    return text if len(text) <= width else text[: width - 1] + "…"


def printable(text: str) -> str:
    """Give a text, a file's name perhaps, without what a terminal would obey or can't show."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def labels_text(labels: dict[str, str] | None) -> str:
    """Give labels as one cell."""
    return ",".join(f"{name}={value}" for name, value in sorted((labels or {}).items()))
