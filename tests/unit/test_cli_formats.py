"""What is printed: sizes, ages, columns, templates, the trace's waterfall."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sampan.cli.commands.trace import runs, waterfall
from sampan.cli.gotemplate import Template, TemplateError
from sampan.cli.table import columns, show, show_objects
from sampan.cli.units import (
    ago,
    binary_size,
    human_duration,
    human_size,
    parse_duration,
    parse_size,
    parse_time,
    since_stamp,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("512", 512), ("32b", 32), ("32k", 32768), ("32KB", 32768), ("1.5GiB", 1610612736), ("2 t", 2 << 40)],
)
def test_parse_size(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "-1", "1x", "1 k b", "k", "1..5k"])
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="invalid size"):
        parse_size(text)


def test_sizes_for_people() -> None:
    assert [human_size(count) for count in (0, 999, 1000, 4_261_502)] == ["0B", "999B", "1kB", "4.26MB"]
    assert human_size(999_999) == "1000kB"
    assert human_size(1_984_000, 4) == "1.984MB"
    assert binary_size(25_200_000_000) == "23.47GiB"


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("1h2m3.5s", 3723500000000),
        ("1.5h", 5400 * 10**9),
        ("-10ms", -(10**7)),
        ("5µs", 5000),
        (".5s", 5 * 10**8),
    ],
)
def test_parse_duration(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "5", "s", "1x", "1h 2m", "--1s"])
def test_parse_duration_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (119, "About a minute"),
        (150, "2 minutes"), (3600, "About an hour"), (5400, "2 hours"), (47 * 3600, "47 hours"), (49 * 3600, "2 days"),
        (15 * 86400, "2 weeks"), (70 * 86400, "2 months"), (800 * 86400, "2 years"),
    ],
)  # fmt: skip
def test_human_duration(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_times() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert ago(now - timedelta(minutes=2), now) == "2 minutes ago"
    assert since_stamp("1700000000.25") == "1700000000.25"
    assert since_stamp("1h", now) == f"{int(now.timestamp()) - 3600}.000000000"
    assert since_stamp("2026-01-02T03:04:05.5Z") == f"{int(now.timestamp())}.500000000"
    assert since_stamp("2026-01-02T03:04:05+01:00") == f"{int(now.timestamp()) - 3600}.000000000"
    assert parse_time("2026-01-02T03:04:05.123456789Z") == now.replace(microsecond=123456)
    assert parse_time("0001-01-01T00:00:00Z") is None
    with pytest.raises(ValueError, match="invalid duration"):
        since_stamp("yesterday")


DATA = {"Id": "x", "A": {"B": [1, 2]}, "N": None, "L": {"b": "2", "a": "<1>"}, "T": True, "E": []}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Id}}-{{ .A.B }}", "x-[1 2]"),
        ("{{json .A}}", '{"B":[1,2]}'),
        ("{{json .L.a}}", '"<1>"'),
        ("{{.L}} {{.N}} {{.T}}", "map[a:<1> b:2] <no value> true"),
        ("{{range .A.B}}<{{.}}>{{end}}", "<1><2>"),
        ("{{range $k, $v := .L}}{{$k}}={{$v}};{{end}}", "a=<1>;b=2;"),
        ("{{range $i, $e := .A.B}}{{if $i}},{{end}}{{$e}}{{end}}", "1,2"),
        ("{{range .E}}x{{else}}none{{end}}", "none"),
        ('{{if eq .Id "y" "x"}}yes{{else if .N}}a{{else}}b{{end}}', "yes"),
        ("{{if and .T (not .N)}}both{{end}}", "both"),
        ("{{with .A}}{{.B}}{{$.Id}}{{end}}", "[1 2]x"),
        ("{{index .A.B 1}}{{(index .L `b`)}}{{len .L}}", "222"),
        ('{{.Id | upper | printf "%s-%5s" "q"}}', "q-    X"),
        ('{{join .A.B ", "}}{{println "a" 1}}', "1, 2a 1\n"),
        ('a {{- " b " -}} c', "a b c"),
        ("{{/* note */}}x", "x"),
        ("{{$y := .Id}}{{$y}}", "x"),
        ("{{index .L \"none\"}}", "<no value>"),
    ],
)  # fmt: skip
def test_template(template: str, text: str) -> None:
    assert Template(template).render(DATA) == text


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{.X}}", 'no entry for key "X"'), ("{{foo .}}", 'function "foo" not defined'), ("{{if .Id}}", "missing"),
        ('{{define "x"}}', "not supported"), ("{{.Id", "unclosed"), ("{{}}", "missing value"), ("{{end}}", "unexpected"),
        ("{{.Id.Y}}", "can't evaluate field Y"), ("{{$z}}", "undefined variable"), ("{{(.Id}}", "end of the action"),
        ("{{range .Id}}{{end}}", "can't iterate"), ("{{index .A.B 9}}", "out of range"), ("{{.Id 1}}", "non-function"),
        ("{{len .T}}", "no length"), ("{{lt .Id 1}}", "incompatible"), ("{{json}}", "error calling json"),
    ],
)  # fmt: skip
def test_template_refuses(template: str, reason: str) -> None:
    with pytest.raises(TemplateError, match=reason):
        Template(template).render(DATA)


def test_columns_are_padded_to_the_widest() -> None:
    assert columns([["A", "B"], ["a long cell", "b"]]) == "A             B\na long cell   b\n"


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"ID": "1", "Name": "one"}, {"ID": "2", "Name": "two"}]
    headers = {"ID": "THE ID", "Name": "NAME"}
    show(rows, headers, ["ID", "Name"])
    show(rows, headers, ["ID"], template=r"table {{.Name}}\t{{.ID}}")
    show(rows, headers, ["ID"], template="json")
    show(rows, headers, ["ID"], quiet="ID")
    show_objects([{"a": {}}], None)
    assert capsys.readouterr().out == (
        "THE ID    NAME\n1         one\n2         two\n"
        "NAME      THE ID\none       1\ntwo       2\n"
        '{"ID":"1","Name":"one"}\n{"ID":"2","Name":"two"}\n'
        "1\n2\n"
        '[\n    {\n        "a": {}\n    }\n]\n'
    )


def test_waterfall_names_the_driver_and_places_the_bars() -> None:
    def span(operation: str, phase: str, driver: str, start: int, duration: int) -> dict[str, object]:
        return {"Operation": operation, "Phase": phase, "Driver": driver, "StartNs": start, "DurationNs": duration}

    spans = [
        span("start", "attach", "bridge", 2_000_000, 1_000_000),
        span("create", "prepare", "overlayfs", 0, 500_000),
        span("start", "sandbox", "", 1_000_000, 1_000_000),
    ]
    lines = waterfall(runs(spans), 10)
    assert lines[0] == "create: 0.500 ms"
    assert lines[2] == "start: 2.000 ms"
    assert lines[3].split() == ["sandbox", "-", "1.000", "ms", "█████"]
    assert lines[4].startswith("  attach    bridge")
    assert lines[4].endswith(" ms       █████")
