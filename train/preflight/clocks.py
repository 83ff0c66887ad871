"""Bounds the difference between the clocks of two hosts, from the times of barriers of the whole world.

No rank leaves a barrier before all ranks have entered it. So for every barrier, however long it took, with
offset = host's clock - main rank's clock at one moment,

    left(host) - entered(main)  >=  offset  >=  entered(host) - left(main)

Several barriers together leave a narrow span, about as wide as the fastest barrier took.
"""

from collections.abc import Sequence

Rounds = Sequence[tuple[float, float]]


def offset_span(host: Rounds, main: Rounds) -> tuple[float, float]:
    """Returns least and greatest offset of a host's clock, in seconds. host, main: lists of (entered, left)."""
    pairs = list(zip(host, main, strict=True))
    least = max(entered - left for (entered, _), (_, left) in pairs)
    most = min(left - entered for (_, left), (entered, _) in pairs)
    return min(least, most), max(least, most)
