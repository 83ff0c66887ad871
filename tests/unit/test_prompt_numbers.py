"""What W&B gets of a long-context task: curves by length, the effective length, and a table with equal columns."""

import pickle

from data.prompts.fill import TooShort
from train.evaluation.prompts import PromptEvaluation

OTHER = {"hits": 1, "loss": 2.0, "first_wrong": 0.5}
CELLS = [
    {"length": 64, "depth": 0.0, "prompts": 4, "hits": 4, "loss": 0.5, "first_wrong": 3.0},
    {"length": 64, "depth": 1.0, "prompts": 4, "hits": 2, "loss": 1.5, "first_wrong": 2.0},
    {"length": 128, "depth": 0.0, "prompts": 4, "hits": 1, "loss": 2.5, "first_wrong": 1.0},
]
ROW = {"step": 3, "stage": "a", "tokens_seen": 9, "task": "passkey", "trained_length": 64}


def test_numbers_are_shares_and_losses_by_length_with_the_effective_length() -> None:
    cells = [CELLS[0] | {"last_part": OTHER}, *CELLS[1:]]
    assert PromptEvaluation.numbers({**ROW, "cells": cells}) == {
        "passkey/hit_share_64": 0.75,
        "passkey/loss_64": 1.0,
        "passkey/hit_share_128": 0.25,
        "passkey/loss_128": 2.5,
        "passkey/effective_length": 64,
        "passkey/last_part_hit_share_64": 0.25,
        "passkey/last_part_loss_64": 2.0,
    }


def test_the_table_has_the_same_columns_with_and_without_controls() -> None:
    with_controls = {**ROW, "cells": [CELLS[0] | {"removed": OTHER, "swapped": OTHER}]}
    first, second = PromptEvaluation.table([{**ROW, "cells": CELLS[:1]}, with_controls])
    assert list(first) == list(second)
    assert (first["hits"], first["removed_hits"]) == (4, None)
    assert (second["removed_hits"], second["swapped_loss"]) == (1, 2.0)


def test_a_length_too_short_for_a_task_can_be_told_to_other_ranks() -> None:
    sent = pickle.loads(pickle.dumps(TooShort(64, 99)))
    assert (str(sent), sent.needed) == ("64 tokens: the smallest prompt needs 99", 99)
