"""Keys that travel under ring attention: our plans against a plain ring and against gathering everything.

    PYTHONPATH=.:tests python tests/benchmark/traffic.py

Pure integers (`parallel/sequence/plan.py`), no clock, no network. A plain ring hands every rank the keys and
values of all other ranks in every layer, T (n - 1) / n tokens; gathering everything receives as much, at
once. Entries are what we receive over what a plain ring receives. Streams:

    one     one document as long as the stream
    mix     documents of a long-context mix, seeded: 80 % log-normal (median 1,500, sigma 1.2), 20 % power law
            (from 8,192 on, P(length > x) ~ x^-1.5), at most 1,048,576; packed best-fit into one row
    short   documents of 512 to 1,536 tokens, packed best-fit into one row
"""

import json
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np

from data.labels import EveryTarget
from data.packing.planner import BatchPlanner
from data.packing.spans import BatchShape
from model.documents import Documents
from model.reach import Reach
from parallel.config import SequenceLayout
from parallel.sequence.dealing import deal
from parallel.sequence.plan import plan_keys

OUTPUT = Path("outputs/benchmarks/traffic.json")
RANKS = (4, 8, 16, 64)
LENGTHS = (1 << 17, 1 << 18, 1 << 19, 1 << 20)
WINDOW = 4096
# The 3:1 model: 32 layers, every fourth one full.
LAYERS = {Reach(WINDOW): 24, Reach(): 8}
# 8 key heads of 128, keys and values, bfloat16.
BYTES_OF_A_KEY = 2 * 8 * 128 * 2
BATCHES = 8
NUM_DOCUMENTS = 20_000
STREAMS = ("one", "mix", "short")


class MadeUpCorpus(EveryTarget):
    """Lengths of a made-up corpus, for the packer."""

    def __init__(self, lengths: np.ndarray) -> None:
        self.lengths = lengths
        self.num_documents = len(lengths)

    def document_lengths(self, documents: np.ndarray) -> np.ndarray:
        """Tokens of each of these documents."""
        return self.lengths[documents]


def corpus(name: str) -> MadeUpCorpus:
    """The documents of `mix` or `short`."""
    random = np.random.default_rng(0)
    if name == "short":
        return MadeUpCorpus(random.integers(512, 1537, NUM_DOCUMENTS))
    body = random.lognormal(np.log(1_500), 1.2, NUM_DOCUMENTS)
    tail = 8_192 * (1 - random.random(NUM_DOCUMENTS)) ** (-1 / 1.5)
    lengths = np.where(random.random(NUM_DOCUMENTS) < 0.8, body, tail)
    return MadeUpCorpus(np.clip(lengths, 16, 1 << 20).astype(np.int64))


def streams(name: str, num_tokens: int) -> Iterator[tuple[int, ...]]:
    """Document lengths of a few successive streams of `num_tokens`, padding included."""
    if name == "one":
        yield (num_tokens,)
        return
    planner = BatchPlanner([corpus(name)], seed=0)
    for _ in range(BATCHES):
        (row,) = planner.plan(BatchShape(num_tokens, num_tokens, num_tokens, (1.0,)))
        lengths = [span.length for span in row]
        padding = num_tokens - sum(lengths)
        yield (*lengths, padding) if padding else tuple(lengths)


def shares(layout: str, lengths: tuple[int, ...], size: int) -> dict[str, np.ndarray]:
    """Tokens of each rank over those of a plain ring: keys of windowed layers, of full layers, of the model, and
    gradients of keys that come back to the model's owners in backward."""
    dealing = deal(layout, lengths, size, LAYERS)
    found = {"model": np.zeros(size), "back": np.zeros(size)}
    for reach, layers in LAYERS.items():
        plan = plan_keys(dealing, Documents.of(lengths), reach)
        # moved[rank, source]: tokens; in backward their gradients go the other way.
        moved = np.array(
            [[sum(map(len, pieces)) for pieces in by_source] for by_source in plan.receives]
        ) / (sum(lengths) * (size - 1) // size)
        found["full" if reach.window is None else "window"] = moved.sum(axis=1)
        found["model"] += moved.sum(axis=1) * layers / sum(LAYERS.values())
        found["back"] += moved.sum(axis=0) * layers / sum(LAYERS.values())
    return found


def measure(name: str, num_tokens: int, size: int, layout: str) -> dict[str, float]:
    """Means over ranks and streams; of the model also the rank with most in any stream, forward and backward."""
    found = [shares(layout, lengths, size) for lengths in streams(name, num_tokens)]
    means = {
        kind: float(np.mean([share[kind] for share in found]))
        for kind in ("window", "full", "model")
    }
    return means | {
        "max": float(np.max([share["model"] for share in found])),
        "max_back": float(np.max([share["back"] for share in found])),
    }


def describe(name: str) -> str:
    """The corpus in one line."""
    lengths = corpus(name).lengths
    parts = [lengths[lengths >= least].sum() / lengths.sum() for least in (1 << 15, 1 << 17)]
    return (
        f"{name}: mean {lengths.mean():,.0f} tokens, median {np.median(lengths):,.0f}; of all tokens "
        f"{parts[0]:.0%} in documents of 32k or more, {parts[1]:.0%} in those of 128k or more\n"
    )


def write_forward(record: list[dict[str, Any]]) -> None:
    """One block a stream: every length and number of ranks, under the three layouts."""
    write = sys.stdout.write
    for name in STREAMS:
        write(
            f"\n{name:<30}"
            + "".join(f"{layout:^28}" for layout in get_args(SequenceLayout)).rstrip()
        )
        write(f"\n{'tokens':>7}{'ranks':>6}{'ring':>9}{'gather':>8}")
        write(
            f"{'window':>8}{'full':>6}{'model':>7}{'max':>7}" * len(get_args(SequenceLayout)) + "\n"
        )
        for num_tokens, size in product(LENGTHS, RANKS):
            ring = num_tokens * (size - 1) / size * BYTES_OF_A_KEY * sum(LAYERS.values())
            gather = num_tokens * BYTES_OF_A_KEY
            write(f"{num_tokens >> 10:>6}k{size:>6}{ring / 2**30:>9.1f}{gather >> 20:>8,}")
            for layout in get_args(SequenceLayout):
                share = measure(name, num_tokens, size, layout)
                write(f"{share['window']:>8.1%}{share['full']:>6.0%}")
                write(f"{share['model']:>7.1%}{share['max']:>7.1%}")
                case = {"stream": name, "tokens": num_tokens, "ranks": size, "layout": layout}
                record.append(case | share)
            write("\n")


def write_backward(record: list[dict[str, Any]]) -> None:
    """The rank to which most gradients come back."""
    write = sys.stdout.write
    write(f"\n{'gradients back, model':<30}")
    write("".join(f"{layout:^16}" for layout in get_args(SequenceLayout)).rstrip())
    write(f"\n{'':>8}{'tokens':>12}{'ranks':>10}")
    write(f"{'mean':>8}{'max':>8}" * len(get_args(SequenceLayout)) + "\n")
    for name, num_tokens, size in product(STREAMS, (LENGTHS[0], LENGTHS[-1]), (8, 64)):
        write(f"{name:<8}{num_tokens >> 10:>11}k{size:>10}")
        for case in record:
            if (case["stream"], case["tokens"], case["ranks"]) == (name, num_tokens, size):
                write(f"{case['model']:>8.1%}{case['max_back']:>8.1%}")
        write("\n")


def main() -> None:
    """Print the tables, write the file."""
    write = sys.stdout.write
    layers = f"{LAYERS[Reach(WINDOW)]} layers of window {WINDOW:,}, {LAYERS[Reach()]} full ones"
    write(f"% of a plain ring; {layers}; mean over ranks, and the rank with most (max)\n")
    write(
        "ring: GiB that each rank receives in a plain ring, forward (8 key heads of 128, bfloat16)\n"
    )
    write("gather: MiB of keys and values that each rank holds where one layer's are gathered\n")
    write(describe("mix") + describe("short"))
    record: list[dict[str, Any]] = []
    write_forward(record)
    write_backward(record)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
