from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

from sampan.bench.report import Measurement, Report, as_json, as_svg, joined, table

REPORT = Report(
    "drivers",
    (
        Measurement("overlayfs", "mount", (0.0004, 0.0006, 0.0005)),
        Measurement("overlayfs", "write <1 GB>", (2.5,)),
        Measurement("vfs", "mount", (0.030,), "copies"),
        Measurement("btrfs", "mount", (), "/x is not on btrfs"),
    ),
)


def test_a_table_has_medians_and_notes() -> None:
    lines = table(REPORT).splitlines()
    assert lines[0].split() == ["drivers", "overlayfs", "vfs", "btrfs"]
    assert lines[2].split() == ["mount", "500", "µs", "30.0", "ms", "-"]
    assert lines[3].split() == ["write", "<1", "GB>", "2.50", "s"]
    assert lines[4:] == ["vfs: copies", "btrfs: /x is not on btrfs"]


def test_json_has_every_value() -> None:
    data = json.loads(as_json(REPORT))
    assert data["measurements"][0]["seconds"] == [0.0004, 0.0006, 0.0005]
    assert data["measurements"][3]["median_seconds"] is None
    assert data["host"]["kernel"]


def test_a_plot_has_a_bar_for_each_median() -> None:
    root = ElementTree.fromstring(as_svg(REPORT))
    bars = [bar for bar in root.iter("{http://www.w3.org/2000/svg}rect") if bar.get("height") == "15"]
    widths = sorted(float(bar.get("width", "")) for bar in bars)
    assert len(widths) == 3
    assert widths[-1] == widths[-2] == 560
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "write <1 GB>" in texts
    assert "500 µs" in texts


def test_rounds_are_joined() -> None:
    more = Report("more", (Measurement("vfs", "mount", (0.010, 0.020)), Measurement("tar", "mount", (1.0,))))
    both = joined([REPORT, more])
    assert both.title == "drivers"
    found = both.find("mount", "vfs")
    assert found is not None
    assert (found.seconds, found.median, found.note) == ((0.030, 0.010, 0.020), 0.020, "copies")
    assert both.find("mount", "tar") is not None
