from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.engine.times import ZERO, before_now, from_rfc3339, from_timestamp, rfc3339
from sampan.http.resources.durations import human

SECOND = 10**9


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, ZERO),
        (1_700_000_000 * SECOND, "2023-11-14T22:13:20Z"),
        (1_700_000_000 * SECOND + 5, "2023-11-14T22:13:20.000000005Z"),
        (1_700_000_000 * SECOND + 500_000_000, "2023-11-14T22:13:20.5Z"),
    ],
)
def test_rfc3339(time_ns: int, text: str) -> None:
    assert rfc3339(time_ns) == text


@given(st.integers(1, 4 * 10**18))
def test_a_time_survives_writing_and_reading(time_ns: int) -> None:
    assert from_rfc3339(rfc3339(time_ns)) == time_ns


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2023-11-14T23:13:20+01:00", 1_700_000_000),
        ("2023-11-14t22:13:20z", 1_700_000_000),
        ("2023-11-14T22:13:20", 1_700_000_000),
        ("2023-11-14", 0),
        ("2023-13-14T22:13:20Z", 0),
        ("yesterday", 0),
    ],
)
def test_reading(text: str, seconds: int) -> None:
    assert from_rfc3339(text) == seconds * SECOND


def test_timestamps() -> None:
    assert from_timestamp("") == 0
    assert from_timestamp("1700000000") == 1_700_000_000 * SECOND
    assert from_timestamp("1700000000.000000005") == 1_700_000_000 * SECOND + 5
    assert from_timestamp("1700000000.5") == 1_700_000_000 * SECOND + SECOND // 2
    assert from_timestamp("2023-11-14T22:13:20.5Z") == 1_700_000_000 * SECOND + SECOND // 2


@pytest.mark.parametrize("text", ["soon", "1.2.3", "1.x", "--1", "9" * 5000, "1.٣"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a time"):
        from_timestamp(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "Less than a second"),
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (2 * 3600, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (2 * 365 * 86400, "2 years"),
    ],
)
def test_durations_are_told_as_docker_does(seconds: float, text: str) -> None:
    assert human(seconds) == text


@pytest.mark.parametrize(("text", "seconds"), [("24h", 86400), ("1h30m", 5400), ("1.5h", 5400), ("90s", 90), ("500ms", 0.5)])
def test_ages(text: str, seconds: float) -> None:
    assert abs(time.time_ns() - before_now(text) - seconds * SECOND) < 10 * SECOND


def test_a_time_instead_of_an_age() -> None:
    assert before_now("1700000000") == before_now("2023-11-14T22:13:20Z") == 1_700_000_000 * SECOND
    for wrong in ("1.2.3h", "h", "24x", "yesterday"):
        with pytest.raises(ValueError):
            before_now(wrong)
