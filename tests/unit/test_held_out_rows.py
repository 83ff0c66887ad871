"""Held-out rows are those of a search through all documents, of which few are asked."""

from itertools import count, islice

import numpy as np
import pytest

from data import held_out_rows
from data.held_out_rows import evaluation_rows
from data.packing.document_order import shuffled
from data.packing.spans import Span


class Documents:
    """Lengths drawn from (seed, number); a share of the documents has no label. Counts the lengths asked for."""

    longest: int | None = None

    def __init__(self, number: int, most: int, labelled: float = 1.0) -> None:
        self.num_documents, self.most, self.labelled, self.asked = number, most, labelled, 0

    def document_lengths(self, documents: np.ndarray) -> np.ndarray:
        self.asked += len(documents)
        return (documents * 7919 + 13) % 9973 % (self.most + 1)

    def count_labels(self, document: int, start: int, length: int) -> int:
        return (length - 1) * (document * 31 % 100 + start % 3 < 100 * self.labelled)


def all_rows(
    source: Documents, sequence_length: int, max_tokens: int
) -> tuple[list[list[Span]], bool]:
    """The search of earlier versions, through the lengths of all documents."""
    most = max(1, max_tokens // sequence_length)
    order = shuffled(
        np.arange(source.num_documents), source.num_documents, seed=0, source=0, epoch=0
    )
    lengths = source.document_lengths(order)

    def pieces():
        for start in count(0, sequence_length):
            chosen = order[lengths >= start + sequence_length]
            if not len(chosen):
                return
            for document in chosen:
                yield Span(0, int(document), start, sequence_length, 0).counted(source)

    rows = list(islice(([span] for span in pieces() if span.valid), most))
    rows = rows or list(islice(([span] for span in pieces()), most))
    if rows:
        return rows, True
    for at in np.argsort(-lengths, kind="stable"):
        span = Span(0, int(order[at]), 0, int(lengths[at]), 0)
        free = [sequence_length - sum(one.length for one in row) for row in rows]
        fits = [(gap, number) for number, gap in enumerate(free) if gap >= span.length]
        if not span.length:
            break
        if fits:
            rows[min(fits)[1]].append(span)
        elif len(rows) < most:
            rows.append([span])
    return [[span.counted(source) for span in row] for row in rows], False


@pytest.mark.parametrize("labelled", [1.0, 0.02, 0.0])
@pytest.mark.parametrize("number", [0, 1, 64, 65, 200])
def test_rows_are_those_of_a_search_through_all_documents(number: int, labelled: float) -> None:
    for most in (1, 97):
        for sequence_length in (1, 8, 40, 41, 97, 98, 300):
            for max_tokens in (1, 500, 8000):
                source = Documents(number, most, labelled)
                wanted = all_rows(source, sequence_length, max_tokens)
                for longest in (None, most):
                    source.longest = longest
                    assert evaluation_rows(source, sequence_length, max_tokens) == wanted


def test_of_many_documents_a_few_are_asked_for_their_lengths() -> None:
    source = Documents(1 << 24, 200)
    rows, _ = evaluation_rows(source, 100, 100_000)
    assert len(rows) == 1000
    assert source.asked == 4096, "half of the documents are long enough; the chunks double"


def test_none_is_searched_for_a_length_beyond_the_longest_and_packed_rows_come_from_a_bounded_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held_out_rows, "PACKED_FROM", 1000)
    source = Documents(1 << 24, 200)
    source.longest = 200
    rows, contiguous = evaluation_rows(source, 201, 2010)
    assert len(rows) == 10
    assert not contiguous
    assert source.asked == 1024, "chunks are whole"
    order = shuffled(np.arange(1000), 1 << 24, seed=0, source=0, epoch=0)
    assert {span.document for row in rows for span in row} <= set(order.tolist())
