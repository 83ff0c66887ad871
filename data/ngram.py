"""Yardsticks: unigram and bigram models, counted on training tokens in the mix of the stage.

    unigram   p1(w)     = (c(w) + 1) / (N + V)                                     (add one)
    bigram    p2(w | h) = (c(h, w) + t(h) p1(w)) / (c(h) + t(h))                   (Witten-Bell)

c counts, N tokens, V vocabulary, t(h) = number of different tokens seen after h (Witten and Bell
1991; Chen and Goodman 1998, section 2.5). Pairs never cross a document border. A loss below the
bigram's shows that a language model uses more than the preceding token.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from data.batch import IGNORE
from data.files import write_durably
from data.tokens.indexed_dataset import IndexedDataset
from data.tokens.prefix import ngram_path

CHUNK_TOKENS = 1 << 22
VERSION = 2


class TokenStream(Protocol):
    """Interface of documents that can be counted: all of them, end to end. name: for messages."""

    @property
    def name(self) -> str: ...

    def lengths(self) -> Iterator[np.ndarray]:
        """Lengths of all documents in order, in arrays of bounded size."""

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) of all documents."""


class NgramLosses(NamedTuple):
    """Natural-log losses of each target, float64 (T,), 0 where the target is IGNORE."""

    unigram: np.ndarray
    bigram: np.ndarray


class NgramYardstick:
    """Counts of tokens and neighbouring pairs; see `fit`."""

    def __init__(self, counts: np.ndarray, pairs: np.ndarray, pair_counts: np.ndarray) -> None:
        vocab = len(counts)
        self.counts = counts
        self.pairs = pairs
        self.pair_counts = pair_counts
        context = pairs // vocab
        self._context_counts = np.bincount(context, weights=pair_counts, minlength=vocab)
        self._followers = np.bincount(context, minlength=vocab).astype(np.float64)
        self._unigram = (counts + 1.0) / (counts.sum() + vocab)

    def score(self, tokens_T: np.ndarray, targets_T: np.ndarray) -> NgramLosses:
        """Losses of `targets_T`, each given the token of `tokens_T` at the same place."""
        vocab = len(self.counts)
        valid = targets_T != IGNORE
        context = tokens_T[valid].astype(np.int64)
        target = targets_T[valid].astype(np.int64)
        codes = context * vocab + target
        at = np.minimum(np.searchsorted(self.pairs, codes), max(0, len(self.pairs) - 1))
        found = self.pairs[at] == codes if len(self.pairs) else np.zeros(len(codes), dtype=bool)
        seen = np.where(found, self.pair_counts[at] if len(self.pairs) else 0, 0)
        unigram = self._unigram[target]
        followers = self._followers[context]
        weight = self._context_counts[context] + followers
        bigram = np.where(
            weight > 0, (seen + followers * unigram) / np.maximum(weight, 1.0), unigram
        )
        losses = NgramLosses(np.zeros(len(targets_T)), np.zeros(len(targets_T)))
        losses.unigram[valid] = -np.log(unigram)
        losses.bigram[valid] = -np.log(bigram)
        return losses


def fit(documents: TokenStream, vocab_size: int, *, max_tokens: int) -> NgramYardstick:
    """Count whole documents from the first on, until `max_tokens` are reached.

    Memory: a chunk of 4 million tokens and the distinct pairs found. Raises ValueError for a token
    that is not in the vocabulary.
    """
    counts = np.zeros(vocab_size, dtype=np.int64)
    pairs = np.empty(0, dtype=np.int64)
    pair_counts = np.empty(0, dtype=np.int64)
    ends = _ends(documents, max_tokens)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, CHUNK_TOKENS):
        stop = min(start + CHUNK_TOKENS, total)
        tokens = documents.tokens(start, min(stop + 1, total)).astype(np.int64)
        if tokens.max(initial=0) >= vocab_size:
            raise ValueError(
                f"{documents.name}: holds token {tokens.max()}, the vocabulary has"
                f" {vocab_size}; use the vocab_size of its tokenizer"
            )
        counts += np.bincount(tokens[: stop - start], minlength=vocab_size)
        inside = np.ones(max(0, len(tokens) - 1), dtype=bool)
        last = ends[np.searchsorted(ends, start + 1) : np.searchsorted(ends, stop, side="right")]
        last = last - 1 - start
        inside[last[last < len(inside)]] = False
        codes, found = np.unique(
            (tokens[:-1] * vocab_size + tokens[1:])[inside], return_counts=True
        )
        pairs, where = np.unique(np.concatenate([pairs, codes]), return_inverse=True)
        pair_counts = np.bincount(
            where, weights=np.concatenate([pair_counts, found]), minlength=len(pairs)
        ).astype(np.int64)
    return NgramYardstick(counts, pairs, pair_counts)


def merge(parts: Sequence[NgramYardstick]) -> NgramYardstick:
    """The summed counts of several sources."""
    pairs, where = np.unique(np.concatenate([part.pairs for part in parts]), return_inverse=True)
    found = np.concatenate([part.pair_counts for part in parts])
    pair_counts = np.bincount(where, weights=found, minlength=len(pairs)).astype(np.int64)
    counts = np.sum([part.counts for part in parts], axis=0)
    return NgramYardstick(counts, pairs, pair_counts)


def shares_of(max_tokens: int, weights: Sequence[float]) -> list[int]:
    """Tokens to count of every source: `max_tokens` in total, in proportion to the weights.

    A source of weight 0 gets 0, any other at least 1. `fit` counts a source with fewer tokens than its share whole,
    once.
    """
    total = sum(weights)
    return [max(1, int(max_tokens * weight / total)) if weight else 0 for weight in weights]


def _ends(documents: TokenStream, max_tokens: int) -> np.ndarray:
    """Token offsets of the ends of the first documents, up to the document that reaches `max_tokens`."""
    parts: list[np.ndarray] = []
    total = 0
    for lengths in documents.lengths():
        ends = np.cumsum(lengths) + total
        enough = int(np.searchsorted(ends, max_tokens)) + 1
        parts.append(ends[:enough])
        total = int(parts[-1][-1])
        if total >= max_tokens:
            break
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def cached_fit(
    dataset: IndexedDataset, vocab_size: int, *, max_tokens: int, sha256: str
) -> NgramYardstick:
    """`fit`, cached in PREFIX.ngram for the token file of checksum `sha256`.

    PREFIX.ngram is a .npz file, preceded by the 32 bytes of its SHA-256.
    """
    path = ngram_path(dataset.prefix)
    key = f"{VERSION} {sha256} {vocab_size} {max_tokens}"
    kept = _kept(path, key)
    if kept is not None:
        return kept
    made = fit(dataset, vocab_size, max_tokens=max_tokens)
    archive = io.BytesIO()
    np.savez(archive, key=key, counts=made.counts, pairs=made.pairs, pair_counts=made.pair_counts)
    content = archive.getvalue()
    with suppress(OSError):  # if the folder is not writable, the next run counts again
        write_durably(path, hashlib.sha256(content).digest() + content)
    return made


def _kept(path: Path, key: str) -> NgramYardstick | None:
    """The cached counts; None if the file is missing, damaged or has another key."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(raw[32:]).digest() != raw[:32]:
        return None
    with np.load(io.BytesIO(raw[32:]), allow_pickle=False) as kept:
        if str(kept["key"]) != key:
            return None
        return NgramYardstick(kept["counts"], kept["pairs"], kept["pair_counts"])
