"""Stored labels: counts and masks of any piece are those of the definition; other files are refused."""

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.tokens.label_file import LabelFile, write_labels


def _store(folder: Path, masks: list[list[bool]]) -> LabelFile:
    counts, runs = [], []
    for mask in masks:
        found = [(labelled, len(list(group))) for labelled, group in groupby(mask)]
        ends = np.cumsum([size for _, size in found])
        mine = [(e - n, n) for (has, n), e in zip(found, ends, strict=True) if has]
        counts.append(len(mine))
        runs += mine
    with (folder / "x.labels").open("wb") as file:
        write_labels(file, np.array(counts, "<i4"), np.array(runs, "<i4").reshape(-1, 2))
    return LabelFile(folder / "x", len(masks))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.booleans(), max_size=9), min_size=1, max_size=4))
def test_every_piece_of_every_document_has_its_count_and_mask(
    tmp_path: Path, masks: list[list[bool]]
) -> None:
    stored = _store(tmp_path, masks)
    assert stored.num_labelled == sum(map(sum, masks))
    for document, mask in enumerate(masks):
        for start in range(len(mask) + 1):
            for stop in range(start, len(mask) + 1):
                assert stored.count(document, start, stop) == sum(mask[start:stop])
                assert stored.mask(document, start, stop - start).tolist() == mask[start:stop]


def test_files_of_another_kind_or_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        LabelFile(tmp_path / "x", 2)
    stored = _store(tmp_path, [[True, False, True], [False]])
    path = tmp_path / "x.labels"
    whole = path.read_bytes()
    with pytest.raises(ValueError, match="for 2 documents, the tokens have 3"):
        LabelFile(tmp_path / "x", 3)
    for content, why in (
        (b"", "not a file of labels"),
        (b"RWLABELZ" + whole[8:], "not a file of labels"),
        (whole[:8] + b"\2" + whole[9:], "version 2, expected 1"),
        (whole[:-1], r"expected \d+ bytes, found \d+"),
        (whole + b"\0", r"expected \d+ bytes, found \d+"),
    ):
        (tmp_path / "y.labels").write_bytes(content)
        with pytest.raises(ValueError, match=why):
            LabelFile(tmp_path / "y", 2)
    with path.open("r+b") as file:
        file.truncate(40)
    with pytest.raises(ValueError, match="copy it again"):
        stored.count(0, 0, 2)
