"""Attention work of the busiest rank over the mean under the three layouts, the keys it costs, and a picture.

    PYTHONPATH=.:tests python tests/benchmark/balance.py

The same streams and the same 3:1 model as `traffic.py`, and one stream more: a document of half the
stream in front of short ones. Work is the visible query-key pairs of all layers, exact; keys are what the
ranks receive forward over what a plain ring would bring them, windowed layers (halos) and full layers apart.
The last column alone is a clock's. Draws docs/pictures/dealing.svg.
"""

import json
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from traffic import LAYERS, RANKS, WINDOW, streams

from model.reach import Reach
from parallel.sequence.chunk_costs import StreamCosts
from parallel.sequence.chunks import Dealing
from parallel.sequence.dealing import deal
from rank_work import attention_work, keys_received

OUTPUT = Path("outputs/benchmarks/balance.json")
PICTURE = Path("docs/pictures/dealing.svg")
LENGTHS = (1 << 17, 1 << 20)
STREAMS = ("one", "mix", "short", "half")
PICTURED = 6  # of the streams "mix": three long documents and two short ones
# As the picture tells it.
ORDER = ("contiguous", "zigzag", "balanced")
COLOURS = ("#3465a4", "#e08a1e", "#2e9a6a", "#b5485d")


def batches(name: str, num_tokens: int) -> Iterator[tuple[int, ...]]:
    """Document lengths of a few streams."""
    if name != "half":
        yield from streams(name, num_tokens)
        return
    for short in streams("short", num_tokens // 2):
        yield (num_tokens // 2, *short)


def measure(name: str, num_tokens: int, size: int, layout: str) -> dict[str, float]:
    """Busiest over mean (mean and worst of the streams), keys over a plain ring's, most chunks, milliseconds."""
    ratios, halos, full, chunks, seconds = [], [], [], [], []
    for lengths in batches(name, num_tokens):
        started = time.perf_counter()
        dealing = deal(layout, lengths, size, LAYERS)
        seconds.append(time.perf_counter() - started)
        work = attention_work(dealing, lengths, LAYERS)
        ratios.append(max(work) * size / sum(work))
        ring = num_tokens * (size - 1) / size
        halos.append(np.mean(keys_received(dealing, lengths, {WINDOW: 1})) / ring)
        full.append(np.mean(keys_received(dealing, lengths, {Reach(): 1})) / ring)
        chunks.append(len(dealing.chunks[0]))
    return {
        "mean": float(np.mean(ratios)),
        "worst": max(ratios),
        "halo": float(np.mean(halos)),
        "full": float(np.mean(full)),
        "chunks": max(chunks),
        "ms": 1e3 * float(np.median(seconds)),
    }


def draw(lengths: tuple[int, ...], size: int) -> str:
    """One stream under the three layouts: every chunk as a column as high as its work, work of the ranks beside it."""
    tokens, left, width, height = sum(lengths), 20, 600, 110
    parts = [
        _text(
            left,
            24,
            "One stream: its documents, and below them attention work along the stream, by the rank that does it",
        )
    ]
    at = 0
    for number, length in enumerate(lengths):
        x, wide = left + width * at / tokens, width * length / tokens
        fill = "#c9ced6" if number % 2 else "#aab1bc"
        parts.append(_box(x, 34, wide, 14, fill, f"document of {length:,} tokens"))
        at += length
    fine = StreamCosts(lengths, LAYERS).cut(size * 64)
    scale = height / fine.work.max()
    for number, layout in enumerate(ORDER):
        dealing = deal(layout, lengths, size, LAYERS)
        parts += _panel(dealing, lengths, layout, 70 + number * (height + 62), height, scale)
    legend = 70 + len(ORDER) * (height + 62)
    for rank in range(size):
        parts.append(_box(left + 90 * rank, legend - 10, 12, 12, COLOURS[rank], f"rank {rank}"))
        parts.append(_text(left + 90 * rank + 18, legend, f"rank {rank}"))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 880 {legend + 16}" width="880" '
        'font-family="system-ui, sans-serif" font-size="13">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _panel(
    dealing: Dealing, lengths: tuple[int, ...], layout: str, top: float, height: float, scale: float
) -> list[str]:
    """Chunks on the left, in pieces so fine that a chunk shows how its work grows; bars of the ranks on the right."""
    left, width, bars, size = 20, 600, 660, dealing.size
    fine = StreamCosts(lengths, LAYERS).cut(size * 64)
    owner = {chunk: rank for rank, held in enumerate(dealing.chunks) for chunk in held}
    per_chunk = size * 64 // len(owner)
    base = top + 22 + height
    work = attention_work(dealing, lengths, LAYERS)
    mean = sum(work) / size
    keys = sum(keys_received(dealing, lengths, LAYERS)) / sum(LAYERS.values())
    ring = sum(lengths) * (size - 1)
    said = f"{layout}: busiest rank {max(work) / mean:.2f} x the mean"
    parts = [_text(left, top + 12, f"{said}, keys received {keys / ring:.0%} of a plain ring's")]
    for chunk, rank in owner.items():
        heights = (fine.work[chunk * per_chunk : (chunk + 1) * per_chunk] * scale).tolist()
        x, step = left + width * chunk / len(owner), width / len(owner) / per_chunk
        outline = [f"M{x:.1f} {base:.1f}"]
        for piece, tall in enumerate(heights):
            outline.append(f"L{x + piece * step:.1f} {base - tall:.1f}h{step:.2f}")
        outline.append(f"L{x + width / len(owner):.1f} {base:.1f}z")
        parts.append(
            f'<path d="{"".join(outline)}" fill="{COLOURS[rank]}" stroke="#ffffff" stroke-width="0.6"/>'
        )
    unit = 90 / mean
    for rank, pairs in enumerate(work):
        y = top + 26 + rank * (height - 4) / size
        wide = min(pairs * unit, 170.0)
        parts.append(_box(bars, y, wide, (height - 4) / size - 6, COLOURS[rank], f"rank {rank}"))
        parts.append(_text(840, y + 14, f"{pairs / mean:.2f}"))
    line = bars + mean * unit
    parts.append(
        f'<path d="M{line} {top + 20}V{base}" stroke="#222222" stroke-dasharray="3 3" fill="none"/>'
    )
    parts.append(_text(line - 18, top + 12, "mean"))
    return parts


def _text(x: float, y: float, words: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="#222222">{escape(words)}</text>'


def _box(x: float, y: float, width: float, height: float, fill: str, title: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}"'
    return (
        f'<rect {place} fill="{fill}" stroke="#ffffff" stroke-width="0.6">'
        f"<title>{escape(title)}</title></rect>"
    )


def main() -> None:
    """Print the table, write the file and the picture."""
    write = sys.stdout.write
    write("busiest rank's attention work over the mean: mean of the streams, and the worst one\n")
    write("halo, full: keys received by windowed and full layers, % of a plain ring, mean\n")
    write("chunks: most chunks a rank in any stream; ms: median time to deal one stream\n\n")
    write(f"{'':22}{'contiguous':^28}{'zigzag':^28}{'balanced':^41}".rstrip() + "\n")
    write(f"{'stream':<7}{'tokens':>7}{'ranks':>6}")
    write(f"{'mean':>8}{'worst':>6}{'halo':>7}{'full':>6}" * 3 + f"{'chunks':>8}{'ms':>6}\n")
    record: list[dict[str, Any]] = []
    for name, num_tokens, size in product(STREAMS, LENGTHS, RANKS):
        write(f"{name:<7}{num_tokens >> 10:>6}k{size:>6}")
        for layout in ORDER:
            found = measure(name, num_tokens, size, layout)
            write(
                f"{found['mean']:>8.2f}{found['worst']:>6.2f}{found['halo']:>7.1%}{found['full']:>6.0%}"
            )
            case = {"stream": name, "tokens": num_tokens, "ranks": size, "layout": layout}
            record.append(case | found)
        write(f"{found['chunks']:>8}{found['ms']:>6.1f}\n")
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(record, indent=1) + "\n")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(draw(list(batches("mix", LENGTHS[0]))[PICTURED], len(COLOURS)))


if __name__ == "__main__":
    main()
