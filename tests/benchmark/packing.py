"""Padding and cuts of each packing on the quickstart's corpus, until its first epoch is placed; planning speed.

    PYTHONPATH=.:tests python tests/benchmark/packing.py

"Naive" is one document (or its cut pieces) a row. Extra cuts are cuts beyond those that the row length
forces on long documents, for each document. No clock decides anything here but the last column.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from data.config import DataConfig
from data.packing.planner import BatchPlanner
from data.packing.spans import BatchShape
from data.sources import Source, make_corpus, open_corpus

OUTPUT = Path("outputs/benchmarks/packing.json")
VOCABULARY = 4096
LENGTHS = (256, 1024, 4096, 8192, 32768)
ROWS_AT_ONCE = 64


def pack(source: Source, method: str, length: int) -> dict[str, float]:
    """Rows by `method` until every document of the first epoch is placed whole."""
    planner = BatchPlanner([source], seed=0, method=method)
    shape = BatchShape(length, ROWS_AT_ONCE * length, ROWS_AT_ONCE * length, (1.0,))
    placed = first = pieces = rows = 0
    started = time.process_time()
    while first < source.num_tokens:
        planned = [span for row in planner.plan(shape) for span in row]
        rows += ROWS_AT_ONCE
        placed += sum(span.length for span in planned)
        first += sum(span.length for span in planned if span.epoch == 0)
        pieces += sum(span.epoch == 0 for span in planned)
    seconds = time.process_time() - started
    return {
        "padding": 1 - placed / (rows * length),
        "pieces": pieces,
        "tokens_per_second": placed / seconds,
    }


def main() -> None:
    """Print the table, write the file."""
    config = DataConfig(corpus="python_stdlib")
    make_corpus(config, "outputs/prepared", VOCABULARY, show_progress=False)
    source = open_corpus(config, "outputs/prepared", VOCABULARY, check=False).sources[0]
    lengths = source.document_lengths(np.arange(source.num_documents))
    write = sys.stdout.write
    write(f"{source.num_documents:,} documents, {source.num_tokens:,} tokens\n")
    write(f"{'':>8}{'padding':>30}{'extra cuts a document':>22}{'planning, M tokens/s':>23}\n")
    write(f"{'length':>8}{'naive':>10}{'best fit':>10}{'concat':>10}{'best fit':>12}{'concat':>10}")
    write(f"{'best fit':>13}{'concat':>10}\n")
    record = []
    for length in LENGTHS:
        pieces = -(-lengths // length)
        naive = 1 - lengths.sum() / (pieces.sum() * length)
        fit, concat = (pack(source, method, length) for method in ("best_fit", "concat"))
        forced = pieces.sum()
        cuts = [(found["pieces"] - forced) / len(lengths) for found in (fit, concat)]
        write(
            f"{length:>8,}{naive:>10.2%}{fit['padding']:>10.3%}{concat['padding']:>10.3%}"
            f"{cuts[0]:>12.3f}{cuts[1]:>10.3f}"
            f"{fit['tokens_per_second'] / 1e6:>13.1f}{concat['tokens_per_second'] / 1e6:>10.1f}\n"
        )
        record.append({"length": length, "naive": naive, "best_fit": fit, "concat": concat})
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
