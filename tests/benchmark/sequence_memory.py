"""Memory of a sequence rank against the number of ranks that share a stream: one forward and backward.

    PYTHONPATH=.:tests python tests/benchmark/sequence_memory.py

Every storage that an operation allocates is counted while it lives (`LiveBytes` of
tests/parity/test_sequence_memory.py), so a peak is exact: no clock, no allocator, the same on every machine.
Parameters and their gradients were there before and are not counted; they do not shrink on this axis. What should
shrink like 1 / n: layer inputs, projections, feed-forward, own keys. What does not: buffers of keys under way (a
shard's at most, two for keys and three for gradients, for all layers), keys that windows bring, one chunk of
logits. `1` is one rank's MiB; the other columns are the rank that holds most over that. "largest" is the largest
single tensor over one layer's keys and values of the whole stream: below 1, nobody gathers them (on few ranks the
widest tensor of the rank's own feed-forward is above it).
Prints a table and writes `outputs/benchmarks/sequence_memory.json`.
"""

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any, get_args

import torch
from ring_side_by_side import MODELS, document_lengths

from model.config import ModelConfig
from parallel.config import SequenceLayout
from tests.parity.test_sequence_memory import TOKENS, measure

OUTPUT = Path("outputs/benchmarks/sequence_memory.json")
SIZES = (2, 4, 8)
STREAMS = ("one", "mix")
PROMISED = 0.30  # at 4 ranks


def busiest(
    config: ModelConfig, lengths: tuple[int, ...], size: int, layout: str
) -> tuple[int, int]:
    """Most bytes that any rank holds, and of its largest tensor."""
    found = measure(config, lengths, size, layout, count_weight_gradients=False)
    peaks, largest = zip(*found, strict=True)
    return max(peaks), max(largest)


def main() -> None:
    """Print the table, write the file."""
    torch.set_num_threads(1)
    write = sys.stdout.write
    shape = MODELS["hybrid"]
    write(f"{TOKENS:,} tokens, width {shape.hidden_size}, window {shape.window}, ")
    write(f"vocabulary {shape.vocab_size:,}, float32; promised at 4 ranks: {PROMISED:.0%}\n")
    write(f"{'model':8}{'stream':8}{'layout':12}{'1, MiB':>8}")
    write("".join(f"{size:>8}" for size in SIZES) + f"{'largest: 1':>13}")
    write("".join(f"{size:>8}" for size in SIZES) + "\n")
    record: list[dict[str, Any]] = []
    for model, stream in product(MODELS, STREAMS):
        config, lengths = MODELS[model], document_lengths(stream, TOKENS)
        keys = TOKENS * 2 * config.num_kv_heads * config.head_dim * 4
        alone, whole = busiest(config, lengths, 1, "zigzag")
        for layout in get_args(SequenceLayout):
            found = [busiest(config, lengths, size, layout) for size in SIZES]
            write(f"{model:8}{stream:8}{layout:12}{alone / 2**20:8.1f}")
            write("".join(f"{peak / alone:8.1%}" for peak, _ in found))
            write(f"{whole / keys:13.2f}")
            write("".join(f"{most / keys:8.2f}" for _, most in found) + "\n")
            case = {"model": model, "stream": stream, "layout": layout, "one_rank": alone}
            record.append(case | {str(n): peak for n, (peak, _) in zip(SIZES, found, strict=True)})
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
