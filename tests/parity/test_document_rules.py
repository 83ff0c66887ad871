"""Document mask, reset of positions and PoSE: explicit masks and positions on one process, and every layout like it.

The oracle of one process is attention with a mask written out token by token, over the whole stream as one document
whose positions are an explicit array; everything is float64.
"""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.batch import PackedBatch, assemble
from data.labels import EveryTarget
from data.packing.document_rules import BY_DOCUMENT, DocumentRules, Pose
from data.packing.positions import Placing, Positions
from data.packing.spans import Span
from model.attention.dense import DenseCore
from model.config import ModelConfig
from model.initialization import initialize
from model.layer_pattern import KindConfig
from model.packed_layout import PackedLayout
from model.position.scales.ssmax import SsmaxScale
from model.position.scales.swan import SwanScale
from model.position.yarn import YarnRope
from model.transformer import Transformer
from parallel.sequence.route import Transport
from tests.parity.layout_cases import MODELS, MORE_RULE_CASES, RULE_CASES, Case
from tests.parity.streams import BASE, SEED, Z_LOSS
from tests.parity.test_layouts import check, check_by, of_one_size, results
from train.objective import to_device

LENGTH = 32
# Spans of each row: documents of one token, padding, a row of padding, one document over the whole row.
ROWS = ((1, 20, 1, 7), (), (32,), (3, 29))
POSE = Pose(chunks=3, target_length=200)
# Rotations and a scale that read positions, and a scale that reads the number of visible keys.
MODEL = replace(
    MODELS["llama"],
    window=9,
    chunk=6,
    layer_pattern=["window_rope", "chunk_rope", "full_nope", "full_rope"],
    kinds={
        "chunk_rope": KindConfig(position_scale=SwanScale(log_base=20.0)),
        "full_nope": KindConfig(position_scale=SsmaxScale()),
        "full_rope": KindConfig(rope=YarnRope(factor=2.0, original_length=48)),
    },
)
RULES = [DocumentRules(*values) for values in product((True, False), (True, False), (None, POSE))]


class Reader(EveryTarget):
    """Tokens of a vocabulary of 40."""

    def read(self, document: int, start: int, length: int) -> np.ndarray:
        return np.random.default_rng(document).integers(40, size=LENGTH)[start:][:length]


def packed(rules: DocumentRules) -> PackedBatch:
    """The rows as the loader makes them, from row 5 of the run on."""
    documents = iter(range(99))
    rows = [[Span(0, next(documents), 0, length, 0) for length in row] for row in ROWS]
    placing = Placing(rules, SEED, first_row=5)
    return assemble(rows, LENGTH, readers=[Reader()], pad_id=0, placing=placing)


def places() -> list[tuple[int, int, bool]]:
    """Row and segment of every token of the stream, and whether it is no padding."""
    found = []
    for row, spans in enumerate(ROWS):
        segments = [segment for segment, length in enumerate(spans) for _ in range(length)]
        found += [(row, segment, True) for segment in segments]
        found += [(row, len(spans), False)] * (LENGTH - len(segments))
    return found


def explicit_mask(rules: DocumentRules) -> Tensor:
    """bool (T, S): who may see whom, windows left aside."""
    tokens = places()
    seen = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    for i, (row, segment, real) in enumerate(tokens):
        for j, (other_row, other_segment, other_real) in enumerate(tokens[: i + 1]):
            same = segment == other_segment or (not rules.document_mask and real)
            seen[i, j] = row == other_row and real == other_real and same
    return seen


def explicit_positions(rules: DocumentRules) -> list[int]:
    """Positions without skips."""
    found: list[int] = []
    tokens = places()
    for i, (row, segment, real) in enumerate(tokens):
        before = tokens[i - 1] if i else None
        goes_on = before == (row, segment, real) or (
            not rules.reset_positions and real and before is not None and before[0] == row
        )
        found.append(found[-1] + 1 if goes_on else 0)
    return found


class ExplicitCore(DenseCore):
    """Dense attention with a given mask; windows and chunks count tokens of the stream."""

    def __init__(self, seen_TS: Tensor, softcap: float) -> None:
        super().__init__(softcap)
        self.seen_TS = seen_TS

    def __call__(self, *arguments: Any) -> Tensor:
        q_THK, k_TGK, v_TGK, _, reach, *_ = arguments
        tokens, heads = q_THK.shape[:2]
        k_SHK, v_SHK = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k_TGK, v_TGK))
        scores = torch.einsum("thk,shk->hts", q_THK, k_SHK) * q_THK.shape[-1] ** -0.5
        if self.softcap:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        index = torch.arange(tokens)
        near = index[:, None] - index[None, :] < (reach.window or tokens)
        chunk = (self.seen_TS.sum(dim=1) - 1) // (reach.chunk or tokens)
        near &= chunk[:, None] == chunk[None, :]
        rows = scores.masked_fill(~(self.seen_TS & near), float("-inf")).softmax(dim=-1)
        return torch.einsum("hts,shk->thk", rows, v_SHK)


def numbers(
    config: ModelConfig, core: DenseCore, batch: PackedBatch, layout: PackedLayout
) -> tuple[Tensor, dict[str, Tensor]]:
    """Hidden states and every gradient of the loss."""
    model = Transformer(config, core).double()
    initialize(model, config, SEED)
    hidden_TD = model(batch.tokens_T, layout, BASE)
    model.loss(hidden_TD, batch.targets_T, Z_LOSS).total.backward()
    return hidden_TD.detach(), {
        n: p.grad for n, p in model.named_parameters() if p.grad is not None
    }


def close(one: Any, other: Any) -> None:
    """Outputs and gradients, within the rounding of sums of 128 numbers."""
    torch.testing.assert_close(one[0], other[0], atol=1e-12, rtol=1e-12)
    assert one[1].keys() == other[1].keys()
    for name, gradient in other[1].items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(one[1][name], gradient, atol=1e-11 * largest, rtol=0, msg=name)


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_outputs_and_gradients_are_those_of_explicit_masks_and_positions(
    rules: DocumentRules,
) -> None:
    config, batch, seen_TS = MODEL, packed(rules), explicit_mask(rules)
    positions = explicit_positions(rules)
    if rules.pose:  # the skips are proven in tests/unit/test_document_rules.py
        rows = Positions.of_rows(ROWS, LENGTH, Placing(rules, SEED, 5))
        positions = rows.of([range(len(positions))]).tolist()
    whole = PackedLayout.from_lengths([len(positions)], positions_T=torch.tensor(positions))
    whole = replace(whole, place_T=seen_TS.sum(dim=1) - 1)
    core = ExplicitCore(seen_TS, config.attention_softcap)
    layout = to_device(batch, torch.device("cpu")).layout
    found = numbers(config, DenseCore(config.attention_softcap), batch, layout)
    close(found, numbers(config, core, batch, whole))


def test_without_mask_and_reset_a_row_is_one_document_but_for_its_labels() -> None:
    config, batch = MODELS["cohere"], packed(DocumentRules(False, False))
    real = [sum(row) for row in ROWS]
    lengths = [n for length in real for n in (length, LENGTH - length) if n]
    found = numbers(config, DenseCore(), batch, to_device(batch, torch.device("cpu")).layout)
    expected = numbers(config, DenseCore(), batch, PackedLayout.from_lengths(lengths))
    assert torch.equal(found[0], expected[0])
    assert batch.valid_tokens == sum(length - 1 for row in ROWS for length in row)


def test_under_the_mask_positions_may_go_on_since_rotations_see_differences() -> None:
    config, cpu = MODELS["cohere"], torch.device("cpu")
    going_on, restarting = packed(DocumentRules(reset_positions=False)), packed(BY_DOCUMENT)
    assert going_on.lengths == restarting.lengths and going_on.positions_T is not None
    close(
        numbers(config, DenseCore(), going_on, to_device(going_on, cpu).layout),
        numbers(config, DenseCore(), restarting, to_device(restarting, cpu).layout),
    )


@pytest.mark.parametrize("case", RULE_CASES, ids=str)
def test_every_gradient_equals_one_process(case: Case) -> None:
    check(case, results(of_one_size(RULE_CASES, case.ranks))[case])


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["ring", "exchange"])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_every_gradient_equals_one_process_for_all_dealings(
    monkeypatch: pytest.MonkeyPatch, ranks: int, transport: Transport
) -> None:
    check_by(transport, of_one_size(MORE_RULE_CASES, ranks), monkeypatch)
