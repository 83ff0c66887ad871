"""Formats the quantities of the report: one unit and one form for each.

tokens, parameters, documents    950, 12.4k, 1.05M, 3B (thousand, million, billion); in a table's details all digits
lengths, windows, RoPE bases     4,096 (all digits)
shares                           41.2%, 1.7%, 0.0061%
bytes                            28.3 MB, 1.4 GB (10^6, 10^9 bytes)
durations                        190 µs, 950 ms, 42 s, 12 min 05 s, 3 h 07 min, 2 d 04 h
moments                          2026-01-31 10:02 UTC
"""

from datetime import UTC, datetime

NOTHING = "\N{EN DASH}"


def short_number(value: float, digits: int = 3) -> str:
    """Returns a count in short form: 950, 12.4k, 1.2M, 3B."""
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:
            return f"{value / limit:.{digits}g}{suffix}"
    return f"{value:.{digits}g}"


def whole_number(value: float) -> str:
    """Returns an integer with all digits: 4,096."""
    return f"{value:,.0f}"


def percent(share: float) -> str:
    """Returns a share: 41.2%, 1.7%, 0.0061%; 0% only for exactly 0."""
    if abs(share) >= 0.1:
        return f"{share:.1%}"
    return f"{100 * share:.2g}%" if not share or abs(share) >= 1e-6 else "below 0.0001%"


def size(num_bytes: float) -> str:
    """Returns a number of bytes: 28.3 MB."""
    for limit, suffix in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= limit * 0.9995:
            return f"{num_bytes / limit:.3g} {suffix}"
    return f"{num_bytes:.0f} B"


def operations(per_second: float) -> str:
    """Returns floating point operations per second: 390 GFLOP/s."""
    for limit, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G")):
        if per_second >= limit * 0.9995:
            return f"{per_second / limit:.3g} {prefix}FLOP/s"
    return f"{per_second / 1e6:.3g} MFLOP/s"


def duration(seconds: float) -> str:
    """Returns a duration: 950 ms, 42 s, 12 min 05 s, 3 h 07 min, 2 d 04 h."""
    if seconds < 1:
        return (
            f"{seconds * 1e3:.3g} ms"
            if seconds >= 1e-3 or not seconds
            else f"{seconds * 1e6:.3g} \N{MICRO SIGN}s"
        )
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days} d {hours_left:02} h"
    if hours:
        return f"{hours} h {minutes_left:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def signed(value: float) -> str:
    """Returns a difference of losses with its sign, a Unicode minus if negative."""
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def moment(value: object) -> datetime | None:
    """Parses ISO text or seconds since 1970 (UTC); returns None if the value is neither."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
        return found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC) if found else None
    except (ValueError, OverflowError, OSError):
        return None


def moment_text(when: datetime) -> str:
    """Returns a moment: 2026-01-31 10:02 UTC."""
    return f"{when:%Y-%m-%d %H:%M} UTC"


def plural(count: float, noun: str) -> str:
    """Returns a count with its noun: 1 rank, 2 ranks."""
    return f"{count:,.0f} {noun}" if count == 1 else f"{count:,.0f} {noun}s"
