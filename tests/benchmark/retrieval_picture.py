"""The picture of `retrieval_small.py`: heat maps of hits by depth and length, a line of maps for each model."""

from collections.abc import Mapping, Sequence
from typing import Any

Grids = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
CELL, LEFT, TOP, GAP = 34, 96, 44, 46
# The maps of a line, with what was asked; not every model has all of them.
MAPS = (
    ("noise", "pass key in noise"),
    ("documents", "pass key in text"),
    ("notes", "one of many notes"),
)
# Longest length of training: a line is drawn after it.
TRAINED = 1_024


def draw(keys: Grids) -> str:
    """The picture. keys: by model and haystack, cells with length, depth, prompts and hits."""
    parts, top, width = list[str](), TOP, 0
    for model, grids in keys.items():
        left, lowest = LEFT, top
        for name, label in MAPS:
            if name in grids:
                lengths = sorted({cell["length"] for cell in grids[name]})
                depths = sorted({cell["depth"] for cell in grids[name]})
                down = len(depths) * CELL
                parts.append(_text(left, top - 8, f"{model}, {label}", "start", 13))
                parts += _axes(left, top, lengths, depths, first=left == LEFT)
                parts += [_cell(cell, left, top, lengths, depths) for cell in grids[name]]
                line = left + CELL * sum(length <= TRAINED for length in lengths)
                parts.append(
                    f'<path d="M{line} {top - 3}V{top + down + 3}" stroke="#888" stroke-dasharray="4 3"/>'
                )
                left += len(lengths) * CELL + GAP
                lowest = max(lowest, top + down)
        top, width = lowest + GAP, max(width, left)
    height = top
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        ' font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
    )
    return "\n".join([head, *parts, "</svg>"]) + "\n"


def _axes(
    left: int, top: int, lengths: Sequence[int], depths: Sequence[float], *, first: bool
) -> list[str]:
    parts = [
        _text(
            left + (place + 0.5) * CELL,
            top + len(depths) * CELL + 14,
            f"{length // 1024}k" if length >= 1024 else str(length),
            "middle",
        )
        for place, length in enumerate(lengths)
    ]
    if first:
        parts += [
            _text(left - 6, top + (place + 0.62) * CELL, f"depth {depth:.3g}", "end")
            for place, depth in enumerate(depths)
        ]
    return parts


def _cell(
    cell: Mapping[str, Any], left: int, top: int, lengths: Sequence[int], depths: Sequence[float]
) -> str:
    """A square whose colour is the share of hits, with the share in percent."""
    share = cell["hits"] / cell["prompts"]
    x, y = left + lengths.index(cell["length"]) * CELL, top + depths.index(cell["depth"]) * CELL
    low, high = (244, 240, 232), (31, 95, 168)
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(low, high, strict=True))
    colour = "#fff" if share > 0.5 else "#333"
    return (
        f'<rect x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" fill="rgb({red},{green},{blue})"/>'
        + _text(x + CELL / 2, y + 0.62 * CELL, f"{100 * share:.0f}", "middle", 11, colour)
    )


def _text(x: float, y: float, words: str, anchor: str, size: int = 11, colour: str = "#333") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{words}</text>'
