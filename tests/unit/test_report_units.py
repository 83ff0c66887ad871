"""Quantities as words: one unit and one form for each."""

from datetime import UTC, datetime

from train.report.units import (
    duration,
    moment,
    moment_text,
    operations,
    percent,
    short_number,
    size,
    whole_number,
)


def test_counts() -> None:
    told = ["0", "950", "12.4k", "1M", "1.23M", "3B"]
    assert [short_number(n) for n in (0, 950, 12_400, 999_999, 1_234_567, 3e9)] == told
    assert [whole_number(n) for n in (256, 4096.0, 131_072)] == ["256", "4,096", "131,072"]


def test_durations() -> None:
    told = [
        "0 ms",
        "190 \N{MICRO SIGN}s",
        "950 ms",
        "42 s",
        "12 min 05 s",
        "3 h 07 min",
        "2 d 04 h",
    ]
    seconds = (0, 0.00019, 0.95, 42, 725, 11_220, 187_200)
    assert [duration(s) for s in seconds] == told


def test_shares() -> None:
    told = ["0%", "below 0.0001%", "0.0061%", "1.7%", "41.2%", "100.0%"]
    assert [percent(share) for share in (0, 1e-9, 6.1e-5, 0.0171, 0.4123, 1)] == told


def test_bytes_and_operations() -> None:
    assert [size(n) for n in (0, 950, 28_300, 1.4e9)] == ["0 B", "950 B", "28.3 kB", "1.4 GB"]
    assert [operations(n) for n in (2.11e11, 3.9e14)] == ["211 GFLOP/s", "390 TFLOP/s"]


def test_moments() -> None:
    when = datetime(2025, 1, 31, 9, 2, 11, tzinfo=UTC)
    assert moment("2025-01-31T10:02:11+01:00") == moment(when.timestamp()) == when
    assert moment_text(when) == "2025-01-31 09:02 UTC"
    assert [moment(value) for value in ("soon", 1e300, None, True, [1])] == [None] * 5
