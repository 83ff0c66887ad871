"""How far apart the clocks of two hosts are, from when each was in some barriers of the whole world.

Nobody leaves a barrier before everybody has entered it. So whatever the barrier took, with the clocks of
a host and of the main rank and offset = host's clock - main rank's clock at one moment,

    left(host) - entered(main)  >=  offset  >=  entered(host) - left(main)

holds for every barrier, and all of them together leave a narrow span: about the time of the fastest.
"""

from collections.abc import Sequence

Rounds = Sequence[tuple[float, float]]


def offset_span(host: Rounds, main: Rounds) -> tuple[float, float]:
    """Least and greatest offset of a host's clock, in seconds; both are lists of (entered, left)."""
    pairs = list(zip(host, main, strict=True))
    least = max(entered - left for (entered, _), (_, left) in pairs)
    most = min(left - entered for (_, left), (entered, _) in pairs)
    return min(least, most), max(least, most)
