"""The yardsticks against their formulas, counted by hand; chunks and the cache change nothing."""

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data import ngram
from data.batch import IGNORE
from data.tokens.indexed_dataset import IndexedDataset, write_index

VOCAB = 12


def _dataset(prefix: Path, documents: list[list[int]]) -> IndexedDataset:
    sizes = np.array([len(document) for document in documents], dtype=np.int32)
    with Path(f"{prefix}.idx").open("wb") as file:
        write_index(file, sizes, np.dtype(np.uint16))
    tokens = np.array([t for document in documents for t in document], dtype=np.uint16)
    Path(f"{prefix}.bin").write_bytes(tokens.tobytes())
    return IndexedDataset(prefix)


def _documents() -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 8, size).tolist() for size in (5, 1, 40, 2, 17, 1, 30)]


def _by_hand(documents: list[list[int]], context: int, target: int) -> tuple[float, float]:
    flat = [token for document in documents for token in document]
    pairs = Counter(p for d in documents for p in pairwise(d))
    unigram = (flat.count(target) + 1) / (len(flat) + VOCAB)
    after = {pair[1]: count for pair, count in pairs.items() if pair[0] == context}
    if not after:
        return -math.log(unigram), -math.log(unigram)
    kinds, total = len(after), sum(after.values())
    bigram = (after.get(target, 0) + kinds * unigram) / (total + kinds)
    return -math.log(unigram), -math.log(bigram)


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
def test_losses_are_the_formulas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(ngram, "CHUNK_TOKENS", chunk)
    documents = _documents()
    model = ngram.fit(_dataset(tmp_path / "x", documents), VOCAB, max_tokens=10**9)
    tokens = np.array([c for c in range(VOCAB) for _ in range(VOCAB + 1)])
    targets = np.array([*range(VOCAB), IGNORE] * VOCAB)
    losses = model.score(tokens, targets)
    for token, target, unigram, bigram in zip(tokens, targets, *losses, strict=True):
        expected = (0.0, 0.0) if target == IGNORE else _by_hand(documents, token, target)
        assert (unigram, bigram) == pytest.approx(expected, rel=1e-12)


def test_both_are_probability_distributions(tmp_path: Path) -> None:
    model = ngram.fit(_dataset(tmp_path / "x", _documents()), VOCAB, max_tokens=10**9)
    for context in range(VOCAB):
        losses = model.score(np.full(VOCAB, context), np.arange(VOCAB))
        for loss in losses:
            assert np.exp(-loss).sum() == pytest.approx(1.0, rel=1e-12)


def test_whole_documents_are_counted_until_enough(tmp_path: Path) -> None:
    documents = _documents()
    dataset = _dataset(tmp_path / "x", documents)
    few = ngram.fit(dataset, VOCAB, max_tokens=7)
    assert few.counts.sum() == 5 + 1 + 40
    assert ngram.fit(dataset, VOCAB, max_tokens=6).counts.sum() == 6
    assert ngram.fit(dataset, VOCAB, max_tokens=10**9).counts.sum() == sum(map(len, documents))


def test_sources_are_counted_in_the_mix_of_the_stage() -> None:
    assert ngram.shares_of(20_000_000, (1.0,)) == [20_000_000]
    assert ngram.shares_of(1000, (3.0, 1.0)) == [750, 250]
    assert ngram.shares_of(1000, (0.95, 0.0, 0.05)) == [950, 0, 50]
    assert ngram.shares_of(10, (1.0, 1e-9)) == [9, 1]


def test_an_empty_corpus_knows_nothing(tmp_path: Path) -> None:
    model = ngram.fit(_dataset(tmp_path / "x", []), VOCAB, max_tokens=10)
    losses = model.score(np.array([3]), np.array([4]))
    assert (losses.unigram[0], losses.bigram[0]) == pytest.approx((math.log(VOCAB),) * 2)


def test_the_cache_is_used_for_the_same_files_only(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "x", _documents())
    first = ngram.cached_fit(dataset, VOCAB, max_tokens=100, sha256="a")
    kept = tmp_path / "x.ngram"
    stamp = kept.stat().st_mtime_ns
    again = ngram.cached_fit(dataset, VOCAB, max_tokens=100, sha256="a")
    assert kept.stat().st_mtime_ns == stamp
    tokens, targets = np.arange(8), np.arange(8)[::-1].copy()
    np.testing.assert_array_equal(first.score(tokens, targets), again.score(tokens, targets))
    ngram.cached_fit(dataset, VOCAB, max_tokens=100, sha256="b")
    assert kept.stat().st_mtime_ns != stamp


def test_a_damaged_cache_is_counted_again(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "x", _documents())
    first = ngram.cached_fit(dataset, VOCAB, max_tokens=100, sha256="a")
    kept = tmp_path / "x.ngram"
    whole = kept.read_bytes()
    changed = [whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :] for at in range(len(whole))]
    for content in (b"", b"PK\x03\x04 not whole", whole[:31], whole[:-1], *changed):
        kept.write_bytes(content)
        again = ngram.cached_fit(dataset, VOCAB, max_tokens=100, sha256="a")
        np.testing.assert_array_equal(first.pair_counts, again.pair_counts)
        assert kept.read_bytes() == whole


def test_a_token_beyond_the_vocabulary_is_named(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "x", [[1, 99]])
    with pytest.raises(ValueError, match=r"holds token 99, the vocabulary has 12"):
        ngram.fit(dataset, VOCAB, max_tokens=10)
