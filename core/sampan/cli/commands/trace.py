"""`trace`: where the time of a container's operations went, from Sampan's own endpoint GET /containers/{id}/trace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from sampan.cli.client import current, quote
from sampan.cli.flags import Command
from sampan.cli.table import columns
from sampan.cli.terminal import size

MIN_BAR, MAX_BAR = 10, 60


@click.command("trace", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print the spans as the daemon gives them.")
@click.option("--operation", metavar="NAME", help="Show only one operation: create, start, stop, migrate or remove.")
@click.argument("container")
def trace(container: str, as_json: bool, operation: str | None) -> None:
    """Show where the time of a container's create, start, stop and remove went, driver by driver."""
    answer = current().get(f"/containers/{quote(container)}/trace")
    spans = [span for span in answer["Spans"] if operation in (None, span["Operation"])]
    if as_json:
        print(json.dumps({**answer, "Spans": spans}, indent=4))
        return
    terminal = size(1)
    width = max(MIN_BAR, min(MAX_BAR, terminal[1] - 60)) if terminal else MAX_BAR // 2
    print("\n".join(waterfall(runs(spans), width)) or "no spans are kept for this container")


def runs(spans: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Split spans into runs of one operation each; a new one begins where the operation's name changes."""
    found: list[list[Mapping[str, Any]]] = []
    for span in sorted(spans, key=lambda span: (span["StartNs"], -span["DurationNs"])):
        if found and found[-1][-1]["Operation"] == span["Operation"]:
            found[-1].append(span)
        else:
            found.append([span])
    return found


def waterfall(groups: Sequence[Sequence[Mapping[str, Any]]], width: int) -> list[str]:
    """Draw each run as lines: phase, driver, milliseconds, and a bar `width` wide at its place in time."""
    lines = []
    for spans in groups:
        begin = min(span["StartNs"] for span in spans)
        total = max(span["StartNs"] + span["DurationNs"] for span in spans) - begin
        rows = [
            [
                span["Phase"],
                span["Driver"] or "-",
                f"{span['DurationNs'] / 1e6:9.3f} ms",
                _bar(span["StartNs"] - begin, span["DurationNs"], total, width),
            ]
            for span in spans
        ]
        lines.append(f"{spans[0]['Operation']}: {total / 1e6:.3f} ms")
        lines += ["  " + line for line in columns(rows, padding=2).splitlines()]
    return lines


def _bar(start: int, duration: int, total: int, width: int) -> str:
    if not total:
        return "▏"
    first = min(width - 1, start * width // total)
    count = max(1, round(duration * width / total))
    return " " * first + "█" * min(count, width - first)
