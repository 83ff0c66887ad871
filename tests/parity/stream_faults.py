"""Faults in what is said about the tokens of a stream, and about a step: documents, targets, settings.

See `faults.py`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from data.batch import IGNORE, PackedBatch
from data.packing.document_order import mix_integers
from data.packing.document_rules import DocumentRules
from model.at_step import AtStep
from model.attention.dense import visible_TS
from model.layer_pattern import layer_kinds
from model.packed_layout import PackedLayout
from model.reach import Reach
from model.transformer import Transformer
from parallel.sequence.chunks import Dealing
from parallel.sequence.layout import SequenceShare, build_share
from tests.parity.test_layouts import to_device
from train.objective import MicroBatch

Patch = pytest.MonkeyPatch


def positions_restart_at_the_chunk(patch: Patch) -> None:
    def restarted(dealing: Dealing, *arguments: Any, **options: Any) -> SequenceShare:
        share = build_share(dealing, *arguments, **options)
        own_T = torch.cat([torch.arange(len(held)) for held in share.ranges])
        return replace(share, place_T=share.place_T.minimum(own_T))

    patch.setattr("train.build_trainer.build_share", restarted)


def last_target_of_a_chunk_is_lost(patch: Patch) -> None:
    """Its label is the first token of another rank."""

    def forgetful(batch: PackedBatch, device: torch.device) -> MicroBatch:
        targets_T = batch.targets_T.clone()
        ends = torch.tensor([len(held) for held in batch.ranges]).cumsum(0)
        targets_T[ends - 1] = IGNORE
        return to_device(replace(batch, targets_T=targets_T), device)

    patch.setattr("tests.parity.test_layouts.to_device", forgetful)


def skips_are_drawn_per_rank(patch: Patch) -> None:
    def of_rank(*values: int) -> int:
        return mix_integers(*values, dist.get_rank())

    patch.setattr("data.packing.positions.mix_integers", of_rank)


def windows_count_positions(patch: Patch) -> None:
    """A token sees the keys whose positions are in its window, not the tokens that are."""

    def by_positions(layout: PackedLayout, reach: Reach) -> Tensor:
        distance_TS = layout.positions_T[:, None] - layout.positions_T[None, :]
        return visible_TS(layout, reach) & (distance_TS < (reach.window or torch.inf))

    patch.setattr("model.attention.dense.visible_TS", by_positions)


def mask_is_off_on_one_rank(patch: Patch) -> None:
    real = DocumentRules.attention_documents

    def by_rank(rules: DocumentRules, rows: Sequence[Sequence[int]], length: int) -> Any:
        return real(replace(rules, document_mask=dist.get_rank() != 1), rows, length)

    patch.setattr(DocumentRules, "attention_documents", by_rank)


def one_rank_keeps_the_settings_of_the_model(patch: Patch) -> None:
    """In a stage that changes windows, rotations and scales."""
    real = Transformer.forward

    def forward(model: Transformer, tokens_T: Tensor, layout: PackedLayout, at: AtStep) -> Tensor:
        before = replace(at, specs=layer_kinds(model.config))
        return real(model, tokens_T, layout, before if dist.get_rank() else at)

    patch.setattr(Transformer, "forward", forward)
