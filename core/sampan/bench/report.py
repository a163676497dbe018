"""What was measured, as a table, as JSON and as a plot."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_BAR = 15
_LEFT = 280
_WIDTH = 560
_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#7f7f7f")


@dataclass(frozen=True, slots=True)
class Measurement:
    """The seconds that one case took `subject` (a driver, a peer), a value for each round; `note` says what there is to mind.

    No seconds: it could not be measured, and the note says why.
    """

    subject: str
    case: str
    seconds: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float | None:
        """The median of the rounds, in seconds."""
        return statistics.median(self.seconds) if self.seconds else None


@dataclass(frozen=True, slots=True)
class Report:
    """Measurements of one run, in the order in which they are to be shown."""

    title: str
    measurements: tuple[Measurement, ...]

    def subjects(self) -> list[str]:
        """Give who was measured."""
        return list(dict.fromkeys(found.subject for found in self.measurements))

    def cases(self) -> list[str]:
        """Give what was measured."""
        return list(dict.fromkeys(found.case for found in self.measurements))

    def find(self, case: str, subject: str) -> Measurement | None:
        """Give one measurement."""
        return next((found for found in self.measurements if (found.case, found.subject) == (case, subject)), None)


def joined(reports: Sequence[Report]) -> Report:
    """Give one report with all rounds of several of the same kind."""
    found: dict[tuple[str, str], list[Measurement]] = {}
    for report in reports:
        for measurement in report.measurements:
            found.setdefault((measurement.subject, measurement.case), []).append(measurement)
    return Report(
        reports[0].title,
        tuple(
            Measurement(subject, case, tuple(value for one in rounds for value in one.seconds), rounds[0].note)
            for (subject, case), rounds in found.items()
        ),
    )


def table(report: Report) -> str:
    """Lay out the medians, a row for each case and a column for each subject, and the notes under it."""
    subjects = report.subjects()
    rows = [[report.title, *subjects]]
    notes: list[str] = []
    for case in report.cases():
        row = [case]
        for subject in subjects:
            found = report.find(case, subject)
            row.append("" if found is None else "-" if found.median is None else _shown(found.median))
            if found is not None and found.note and (line := f"{subject}: {found.note}") not in notes:
                notes.append(line)
        rows.append(row)
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], *notes]) + "\n"


def as_json(report: Report) -> str:
    """Give every value of every round, with the host they hold for."""
    return json.dumps(
        {
            "title": report.title,
            "host": {"kernel": platform.release(), "cpus": os.cpu_count(), "python": platform.python_version()},
            "measurements": [
                {
                    "subject": found.subject,
                    "case": found.case,
                    "median_seconds": found.median,
                    "seconds": list(found.seconds),
                    "note": found.note,
                }
                for found in report.measurements
            ],
        },
        indent=1,
    )


def as_svg(report: Report) -> str:
    """Draw the medians as bars, grouped by case; in each group the longest bar is the slowest."""
    subjects = report.subjects()
    colours = {subject: _COLOURS[at % len(_COLOURS)] for at, subject in enumerate(subjects)}
    parts: list[str] = []
    y = 60
    for case in report.cases():
        measured = [(subject, found.median) for subject in subjects
                    if (found := report.find(case, subject)) is not None and found.median is not None]  # fmt: skip
        if not measured:
            continue
        slowest = max(seconds for _, seconds in measured)
        height = len(measured) * (_BAR + 2)
        parts.append(_text(_LEFT - 12, y + height / 2 + 4, case, "end"))
        for subject, seconds in measured:
            width = max(1.0, _WIDTH * seconds / slowest)
            parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colours[subject]}"/>')
            parts.append(_text(_LEFT + width + 5, y + 12, _shown(seconds), "start"))
            y += _BAR + 2
        y += 12
    legend = _legend(subjects, colours)
    size = f'width="{_LEFT + _WIDTH + 120}" height="{y + 10}"'
    body = "\n".join([_text(12, 24, report.title, "start"), *legend, *parts])
    style = "text { font: 12px sans-serif; }"
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{style}</style>\n{background}\n{body}\n</svg>\n'


def _legend(subjects: Sequence[str], colours: dict[str, str]) -> list[str]:
    parts: list[str] = []
    x = 12
    for subject in subjects:
        parts.append(f'<rect x="{x}" y="34" width="12" height="12" fill="{colours[subject]}"/>')
        parts.append(_text(x + 17, 44, subject, "start"))
        x += 35 + 7 * len(subject)
    return parts


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _shown(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.2f} s"
