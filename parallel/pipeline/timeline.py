"""The measured timeline of a pipeline step: recording, a table of idle time, and an SVG picture.

    rank 0   [F0][F1][F2][F3]      [  B0  ][F4][  B1  ] ...       one row a rank, one box an action,
    rank 1       [F0][F1][F2][  B0  ][F3][  B1  ][F4]   ...       coloured by kind, micro-batch inside

A box is the work of one stage on one micro-batch, including the head's loss, without waiting for transfers.
Recording reads the clock twice for each action (on a GPU: two events, read afterwards).
"""

import html
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from parallel.mesh import Mesh
from parallel.pipeline.placement import Placement
from parallel.pipeline.schedule import (
    Action,
    TimedAction,
    bubble,
    compute_order,
    ideal_bubble,
    simulate,
)

_COLOURS = {"F": "#4c78a8", "B": "#e07b39", "I": "#e8a33d", "W": "#6a9f58"}
_WORDS = {"F": "forward", "B": "backward", "I": "backward of inputs", "W": "backward of weights"}
_SHADE = 0.55  # opacity of a rank's second and later stages
_WIDTH, _ROW, _LEFT, _TOP = 1200, 34, 64, 64


class Recorder:
    """Records when this rank's actions start and end. Call `start` on all ranks, later `gather`."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._on_gpu = mesh.device.type == "cuda"
        self._origin = self._now()
        self._notes: list[tuple[Action, object, object]] = []

    def start(self) -> None:
        """Drops all records and sets the clocks of all ranks to zero at the same moment. Collective."""
        self._notes.clear()
        dist.all_reduce(torch.zeros(1, device=self._mesh.device))
        if self._on_gpu:
            torch.cuda.synchronize(self._mesh.device)
        self._origin = self._now()

    @contextmanager
    def timed(self, action: Action) -> Iterator[None]:
        """Records the time of `action`, which is the block."""
        begin = self._now()
        yield
        self._notes.append((action, begin, self._now()))

    def extend(self) -> None:
        """Extends the last action to now, to include the loss of the last stage."""
        action, begin, _ = self._notes[-1]
        self._notes[-1] = (action, begin, self._now())

    def gather(self) -> list[TimedAction]:
        """Returns the actions of the main rank's pipeline, in seconds, on every rank. Collective."""
        if self._on_gpu:
            torch.cuda.synchronize(self._mesh.device)
        rank = self._mesh.pipeline.rank
        own = [
            TimedAction(rank, action, self._seconds(begin), self._seconds(end))
            for action, begin, end in self._notes
        ]
        everyone = self._mesh.gather_objects(own)
        pipeline = self._mesh.topology.groups("pipeline")[0]
        return [one for member in pipeline for one in everyone[member]]

    def _now(self) -> object:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _seconds(self, moment: object) -> float:
        if isinstance(moment, float):
            assert isinstance(self._origin, float)
            return moment - self._origin
        return float(self._origin.elapsed_time(moment)) / 1e3  # type: ignore[attr-defined]


def timeline_table(timed: Sequence[TimedAction], placement: Placement, micro_batches: int) -> str:
    """Returns a table: busy and idle seconds of every rank; the bubble measured, with free transfers, and ideal."""
    start = min(one.start for one in timed)
    span = max(one.end for one in timed) - start
    lines = [f"{'rank':>4}  {'stages':<10}{'busy s':>9}{'idle s':>9}{'idle':>8}"]
    for rank in range(placement.ranks):
        busy = sum(one.end - one.start for one in timed if one.rank == rank)
        stages = ", ".join(str(stage) for stage in placement.stages_of(rank))
        share = 1.0 - busy / span
        lines.append(f"{rank:>4}  {stages:<10}{busy:9.4f}{span - busy:9.4f}{share:8.1%}")
    lines += [
        f"measured bubble                    {bubble(timed, placement.ranks):7.1%}",
        f"same durations, free transfers     {replayed_bubble(timed, placement, micro_batches):7.1%}",
        f"ideal, equal stages                {ideal_bubble(placement, micro_batches):7.1%}",
    ]
    return "\n".join(lines)


def replayed_bubble(
    timed: Sequence[TimedAction], placement: Placement, micro_batches: int
) -> float:
    """Returns the bubble if every action took its stage's mean time for that kind, and transfers no time."""
    durations: dict[tuple[str, int], list[float]] = defaultdict(list)
    for one in timed:
        durations[one.action.kind, one.action.stage].append(one.end - one.start)

    def cost(action: Action) -> float:
        found = durations.get((action.kind, action.stage), [0.0])
        return sum(found) / len(found)

    order = compute_order(placement, micro_batches)
    return bubble(simulate(order, placement.num_stages, cost), placement.ranks)


def write_timeline(path: Path, timed: Sequence[TimedAction], title: str) -> None:
    """Writes the actions as an SVG picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(timeline_picture(timed, title))


def timeline_picture(timed: Sequence[TimedAction], title: str) -> str:
    """Returns the text of the SVG."""
    ranks = sorted({one.rank for one in timed})
    first_stage = {
        rank: min(one.action.stage for one in timed if one.rank == rank) for rank in ranks
    }
    start = min(one.start for one in timed)
    span = max(one.end for one in timed) - start
    scale = (_WIDTH - _LEFT - 16) / span
    height = _TOP + _ROW * len(ranks) + 36
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{html.escape(title)}</text>',
        *_legend({one.action.kind for one in timed}),
    ]
    for row, rank in enumerate(ranks):
        top = _TOP + _ROW * row
        parts.append(f'<text x="8" y="{top + 20}">rank {rank}</text>')
        parts.append(
            f'<rect x="{_LEFT}" y="{top}" width="{span * scale:.2f}" height="{_ROW - 4}" fill="#eeeeee"/>'
        )
        for one in timed:
            if one.rank == rank:
                left = _LEFT + (one.start - start) * scale
                later = one.action.stage > first_stage[rank]
                parts += _box(one, left, top, (one.end - one.start) * scale, later=later)
    foot = height - 12
    parts.append(f'<text x="{_LEFT}" y="{foot}">0</text>')
    parts.append(f'<text x="{_WIDTH - 16}" y="{foot}" text-anchor="end">{span:.4g} s</text>')
    return "\n".join([*parts, "</svg>", ""])


def _legend(kinds: set[str]) -> list[str]:
    parts, left = [], _LEFT
    for kind in (kind for kind in _COLOURS if kind in kinds):
        parts.append(f'<rect x="{left}" y="36" width="14" height="14" fill="{_COLOURS[kind]}"/>')
        parts.append(f'<text x="{left + 20}" y="47">{_WORDS[kind]}</text>')
        left += 40 + 7 * len(_WORDS[kind])
    words = "number: micro-batch; lighter: the rank's later stages; grey: idle"
    return [*parts, f'<text x="{left}" y="47" fill="#555555">{words}</text>']


def _box(one: TimedAction, left: float, top: float, width: float, *, later: bool) -> list[str]:
    action = one.action
    label = f"{_WORDS[action.kind]}, stage {action.stage}, micro-batch {action.micro_batch}"
    opacity = _SHADE if later else 1.0
    box = (
        f'<rect x="{left:.2f}" y="{top}" width="{max(width, 0.5):.2f}" height="{_ROW - 4}" '
        f'fill="{_COLOURS[action.kind]}" fill-opacity="{opacity}" stroke="white" stroke-width="0.6">'
        f"<title>{label}: {1e3 * (one.end - one.start):.2f} ms</title></rect>"
    )
    number = str(action.micro_batch)
    if width < 7 * len(number):
        return [box]
    return [
        box,
        f'<text x="{left + width / 2:.2f}" y="{top + 19}" text-anchor="middle" fill="black">'
        f"{number}</text>",
    ]
