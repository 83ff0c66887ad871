"""The files that grow while documents are tokenised, and the tables that are made of them at the end.

    PREFIX.bin.partial          tokens, renamed at the end
    PREFIX.sizes.partial        int32, tokens of each document; becomes PREFIX.idx
    PREFIX.run_counts.partial   int32, number of runs of tokens with a label of each document
    PREFIX.runs.partial         int32 pairs, first token and number of tokens of each run

The last two become PREFIX.labels; they exist only if the records say which tokens have labels.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.files import replacing
from data.formats.records import Fields
from data.prepare.block_encoder import EncodedBlock
from data.tokens.indexed_dataset import write_index
from data.tokens.label_file import write_labels
from data.tokens.prefix import (
    bin_path,
    idx_path,
    labels_path,
    partial,
    run_counts_path,
    runs_path,
    sizes_path,
)


def growing_files(prefix: str, fields: Fields) -> tuple[Path, ...]:
    """The growing files of one prefix, in the order of `contents_of`."""
    tokens = (partial(bin_path(prefix)), sizes_path(prefix))
    return (*tokens, run_counts_path(prefix), runs_path(prefix)) if fields.say_labels else tokens


def contents_of(encoded: EncodedBlock, chosen: np.ndarray) -> tuple[np.ndarray, ...]:
    """What the chosen documents (bool, one each) of a block add to each growing file."""
    sizes, counts = encoded.sizes, encoded.run_counts
    tokens = encoded.tokens if chosen.all() else encoded.tokens[np.repeat(chosen, sizes)]
    if not len(counts):
        return tokens, sizes[chosen].astype("<i4"), counts, encoded.runs
    runs = encoded.runs[np.repeat(chosen, counts)]
    return tokens, *(of.astype("<i4") for of in (sizes[chosen], counts[chosen], runs))


def write_tables(prefix: str, files: Sequence[Path], dtype: np.dtype[np.generic]) -> None:
    """Write PREFIX.idx and perhaps PREFIX.labels, from the growing files and under the names of unfinished files."""
    with replacing(partial(idx_path(prefix))) as file:
        write_index(file, np.memmap(sizes_path(prefix), mode="r", dtype="<i4"), dtype)
    if runs_path(prefix) not in files:
        return
    counts = np.memmap(run_counts_path(prefix), mode="r", dtype="<i4")
    runs = np.empty((0, 2), dtype="<i4")
    if runs_path(prefix).stat().st_size:  # an empty file cannot be mapped
        runs = np.memmap(runs_path(prefix), mode="r", dtype="<i4").reshape(-1, 2)
    with replacing(partial(labels_path(prefix))) as file:
        write_labels(file, counts, runs)
