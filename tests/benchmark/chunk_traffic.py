"""Keys that travel for layers in attention chunks, beside layers with a window of the same length and full ones.

    PYTHONPATH=.:tests python tests/benchmark/chunk_traffic.py

Pure integers (`parallel/sequence/plan.py`), no clock, no network. Entries are what all ranks together receive in one
layer, forward, over what they receive in a plain ring: the keys of all other ranks. Streams as in `traffic.py`; `late`
is one document that begins 1,000 tokens into the stream, behind a short one. Prints the table and writes
`outputs/benchmarks/chunk_traffic.json`.
"""

import json
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np

from model.documents import Documents
from model.reach import Reach
from parallel.config import SequenceLayout
from parallel.sequence.dealing import deal
from parallel.sequence.plan import plan_keys
from tests.benchmark.traffic import streams

OUTPUT = Path("outputs/benchmarks/chunk_traffic.json")
# Of Llama 4.
LENGTH = 8192
KINDS = {"window": Reach(window=LENGTH), "chunk": Reach(chunk=LENGTH), "full": Reach()}
# Three chunked layers to a full one, for which streams are dealt.
LAYERS = {KINDS["chunk"]: 3, KINDS["full"]: 1}
TOKENS, RANKS, STREAMS = (1 << 17, 1 << 20), (8, 64), ("one", "late", "mix")
BEFORE = 1000


def streams_of(name: str, num_tokens: int) -> Iterator[tuple[int, ...]]:
    """Document lengths of every stream."""
    if name == "late":
        yield (BEFORE, num_tokens - BEFORE)
    else:
        yield from streams(name, num_tokens)


def shares(name: str, num_tokens: int, size: int, layout: str) -> dict[str, float]:
    """By kind of layer: tokens that ranks receive over those of a plain ring, mean over streams."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for lengths in streams_of(name, num_tokens):
        dealing = deal(layout, lengths, size, LAYERS)
        for kind, reach in KINDS.items():
            plan = plan_keys(dealing, Documents.of(lengths), reach)
            received = sum(plan.tokens_received(rank) for rank in range(size))
            found[kind].append(received / (num_tokens * (size - 1)))
    return {kind: float(np.mean(values)) for kind, values in found.items()}


def table(numbers: list[dict[str, Any]]) -> str:
    """One row a stream, length and number of ranks."""
    layouts = get_args(SequenceLayout)
    lines = [
        f"% of a plain ring, one layer; windows and attention chunks of {LENGTH:,} tokens",
        f"{'':<22}" + "".join(f"{layout:^24}" for layout in layouts).rstrip(),
        f"{'stream':<7}{'tokens':>8}{'ranks':>7}"
        + "".join(f"{kind:>8}" for kind in (*KINDS, *KINDS, *KINDS)),
    ]
    for name, num_tokens, size in product(STREAMS, TOKENS, RANKS):
        cells = [
            f"{row[kind]:>8.1%}"
            for layout in layouts
            for row in numbers
            for kind in KINDS
            if (row["stream"], row["tokens"], row["ranks"], row["layout"])
            == (name, num_tokens, size, layout)
        ]
        lines.append(f"{name:<7}{num_tokens >> 10:>7}k{size:>7}" + "".join(cells))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, write the file."""
    numbers: list[dict[str, Any]] = []
    for name, num_tokens, size, layout in product(STREAMS, TOKENS, RANKS, get_args(SequenceLayout)):
        case = {"stream": name, "tokens": num_tokens, "ranks": size, "layout": layout}
        numbers.append(case | shares(name, num_tokens, size, layout))
    sys.stdout.write(table(numbers))
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
