from __future__ import annotations

from pathlib import Path

import pytest

from sampan.engine.trace import MAX_SPANS, Span, Trace


def test_spans_are_kept_over_a_restart(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace.json")
    with trace.span("start", "outer"), trace.span("start", "inner", "vfs"):
        pass
    assert [(span.phase, span.driver) for span in trace.spans()] == [("outer", ""), ("inner", "vfs")]
    assert all(span.end_ns >= span.start_ns for span in trace.spans())
    trace.save()
    again = Trace(tmp_path / "trace.json")
    again.extend([Span("stop", "late", "", 2**62, 2**62 + 1)])
    assert [span.phase for span in again.spans()] == ["outer", "inner", "late"]


def test_a_phase_that_failed_is_timed_too(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace.json")
    with pytest.raises(KeyError), trace.span("start", "broken"):
        raise KeyError
    assert [span.phase for span in trace.spans()] == ["broken"]


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace.json")
    trace.extend(Span("start", str(number), "", number, number) for number in range(MAX_SPANS + 5))
    assert (len(trace.spans()), trace.spans()[0].phase) == (MAX_SPANS, "5")


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"phase": "x"}]', '{"a": 1}'])
def test_a_torn_file_is_only_lost_measurement(tmp_path: Path, text: str) -> None:
    (tmp_path / "trace.json").write_text(text)
    trace = Trace(tmp_path / "trace.json")
    assert trace.spans() == []
    trace.save()


def test_a_container_that_is_gone_gets_no_file(tmp_path: Path) -> None:
    Trace(tmp_path / "gone" / "trace.json").save()
    assert not (tmp_path / "gone").exists()
