"""Planted faults in the labels of a source; see `faults.py`."""

from dataclasses import replace

import numpy as np
import pytest

from data.batch import IGNORE
from data.labels import LabelCounts
from data.packing.spans import Span
from tests.parity.layout_cases import TOKENS
from tests.parity.streams import LabelledSource

Patch = pytest.MonkeyPatch


def labels_are_shifted_by_one(patch: Patch) -> None:
    """The mask is over tokens; the reader takes it for one over targets."""

    def shifted(read: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        targets = read[1:].astype(np.int64)
        if mask is not None:
            targets[~mask[:-1]] = IGNORE
        return targets

    patch.setattr("data.batch._targets", shifted)


def labels_of_the_whole_document_are_counted(patch: Patch) -> None:
    """And nothing compares them with the mask of the piece."""

    def counted(span: Span, labels: LabelCounts) -> Span:
        valid = labels.count_labels(span.document, 0, TOKENS)
        return replace(span, unlabelled=span.length - 1 - valid)

    patch.setattr(Span, "counted", counted)
    patch.setattr("data.batch._check_count", lambda *_: None)


def labels_are_taken_before_the_cut(patch: Patch) -> None:
    """Every piece gets the mask of its document's first tokens."""

    def uncut(source: LabelledSource, document: int, start: int, length: int) -> np.ndarray:
        return source.labels(document)[:length]

    patch.setattr(LabelledSource, "label_mask", uncut)
    patch.setattr("data.batch._check_count", lambda *_: None)
