"""Faults that somebody could make, planted one at a time into the code that runs.

Each is a function that puts something slightly wrong in the place of something right. None hangs and none
raises: all ranks go on and give wrong numbers. `test_planted_faults.py` runs each through the very checks
that sound layouts have to pass. A new one is a function here and a row of FAULTS.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from data.batch import IGNORE
from model.documents import Documents
from model.reach import Reach
from parallel.mesh import AxisGroup
from parallel.pipeline.stage import ScheduledStage
from parallel.pipeline.tied import TiedWeight
from parallel.sequence.chunks import Dealing
from parallel.sequence.merge import merge_part
from parallel.sequence.plan import KeyPlan, plan_keys
from parallel.sequence.route import Own, Route, Transport, route
from parallel.sequence.wire import add_rows
from parallel.tensor.cut import Cut, cut_of
from parallel.tensor.modules import SummandLinear
from tests.parity.label_faults import (
    labels_are_shifted_by_one,
    labels_are_taken_before_the_cut,
    labels_of_the_whole_document_are_counted,
)
from tests.parity.layout_cases import Case
from tests.parity.stream_faults import (
    last_target_of_a_chunk_is_lost,
    mask_is_off_on_one_rank,
    one_rank_keeps_the_settings_of_the_model,
    positions_restart_at_the_chunk,
    skips_are_drawn_per_rank,
    windows_count_positions,
)
from train.trainer import StepSums, Weigh, WholeTrainer

Patch = pytest.MonkeyPatch


# Tensor.


def cut_otherwise(patch: Patch, layers: str, **changes: Any) -> None:
    """For gradients and norm alone; how parameters are really cut stays."""

    def wrongly(name: str, *arguments: Any) -> Cut:
        cut = cut_of(name, *arguments)
        return replace(cut, **changes) if re.search(layers, name) else cut

    patch.setattr("parallel.tensor.gradients.cut_of", wrongly)


def norm_gradients_are_not_summed(patch: Patch) -> None:
    cut_otherwise(patch, "norm", replicas=1)


def key_value_replicas_are_not_summed(patch: Patch) -> None:
    cut_otherwise(patch, r"k_proj\.|v_proj", replicas=1)


def key_value_replica_counts_twice_in_the_norm(patch: Patch) -> None:
    cut_otherwise(patch, r"k_proj\.|v_proj", is_owner=True)


def every_rank_adds_the_whole_bias(patch: Patch) -> None:
    def forward(linear: SummandLinear, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, linear.weight, linear.bias)

    patch.setattr(SummandLinear, "forward", forward)


def norm_over_all_heads_sees_those_of_its_rank(patch: Patch) -> None:
    class Own:
        @staticmethod
        def apply(own_T: Tensor, group: AxisGroup) -> Tensor:
            return own_T * group.size

    patch.setattr("parallel.tensor.modules._SumOverRanks", Own)


def targets_are_dealt_contiguously(patch: Patch) -> None:
    """The residual stream is cut in pieces; the loss believes it is cut once."""

    def by_rank(x_T: Tensor, num_ranks: int) -> Tensor:
        return x_T.reshape(num_ranks, -1)

    patch.setattr("parallel.tensor.vocabulary.by_rank", by_rank)


def every_rank_counts_the_target(patch: Patch) -> None:
    """A rank takes some column of its own for the target's where another rank has it."""

    def columns(logits_CV: Tensor, targets_C: Tensor, first: int) -> tuple[Tensor, Tensor]:
        local_C = targets_C - first
        return local_C.clamp(0, logits_CV.shape[1] - 1), torch.ones_like(local_C, dtype=torch.bool)

    patch.setattr("model.loss.columns", columns)
    patch.setattr("model.logits.columns", columns)


def every_tensor_rank_counts_the_loss(patch: Patch) -> None:
    real = WholeTrainer.__init__

    def counting(trainer: WholeTrainer, *arguments: Any) -> None:
        real(trainer, *arguments)
        trainer._counts = True

    patch.setattr(WholeTrainer, "__init__", counting)


# Sequence.


def window_is_one_key_too_long(patch: Patch) -> None:
    """In the plan and in every kernel call, so that nothing contradicts itself."""

    def longer(own: Own, reach: Reach, how: Transport) -> Route:
        return route(own, replace(reach, window=reach.window and reach.window + 1), how)

    patch.setattr("parallel.sequence.layout.route", longer)


def halo_misses_its_first_key(patch: Patch) -> None:
    """The key arrives, and the call over the border does not look at it."""

    def shorter(call: Any, window: int) -> Any:
        return replace(call, segments=replace(call.segments, window=window - 1))

    def shortsighted(own: Own, reach: Reach, how: Transport) -> Route:
        found = route(own, reach, how)
        if reach.window is None or found.exchange is None:
            return found
        calls = tuple(shorter(call, reach.window) for call in found.exchange.calls)
        return replace(found, exchange=replace(found.exchange, calls=calls))

    patch.setattr("parallel.sequence.layout.route", shortsighted)


def two_kinds_swap_their_windows_on_one_rank(patch: Patch) -> None:
    """What travels is right; the calls of rank 1 look as far back as those of the other kind."""
    other = {5: 17, 17: 5}

    def swapped(call: Any) -> Any:
        return replace(call, segments=replace(call.segments, window=other[call.segments.window]))

    def confused(own: Own, reach: Reach, how: Transport) -> Route:
        found = route(own, reach, how)
        if reach.window is None or own.rank != 1:
            return found
        exchange = found.exchange and replace(
            found.exchange, calls=tuple(map(swapped, found.exchange.calls))
        )
        return replace(found, local=tuple(map(swapped, found.local)), exchange=exchange)

    patch.setattr("parallel.sequence.layout.route", confused)


def chunk_is_one_token_too_long(patch: Patch) -> None:
    """An attention chunk, in the plan and in every kernel call."""

    def longer(own: Own, reach: Reach, how: Transport) -> Route:
        return route(own, replace(reach, chunk=reach.chunk and reach.chunk + 1), how)

    patch.setattr("parallel.sequence.layout.route", longer)


def _cut_from(documents: Documents, first: int, chunk: int) -> Documents:
    """The documents, cut every `chunk` tokens from a token of the stream on, whatever document it is in."""
    borders = {*documents.starts, *range(first % chunk, documents.num_tokens, chunk)}
    return Documents.of([b - a for a, b in pairwise(sorted(borders))])


def chunks_are_counted_from_the_stream(patch: Patch) -> None:
    """In the plan and in every kernel call."""

    def cut(reach: Reach, documents: Documents) -> Documents:
        return documents if reach.chunk is None else _cut_from(documents, 0, reach.chunk)

    patch.setattr(Reach, "cut_documents", cut)


def chunks_are_counted_from_the_first_token_of_the_rank(patch: Patch) -> None:
    """In its kernel calls; what travels is right."""

    def within(own: Own, reach: Reach) -> Own:
        if reach.chunk is None:
            return own
        first = own.dealing.ranges(own.rank)[0].start
        return Own(own.dealing, _cut_from(own.documents, first, reach.chunk), own.rank)

    patch.setattr(Own, "within", within)


class _WithoutBorders(Own):
    """A document that a chunk begins inside of seems to have begun with the stream."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.parts = [
            part._replace(document=range(part.document.stop)) if part.begins_elsewhere else part
            for part in self.parts
        ]


def halo_reaches_into_another_document(patch: Patch) -> None:
    def needed(start: int, starts: Sequence[int], window: int | None) -> range:
        assert window is not None
        return range(0 if start in starts else max(0, start - (window - 1)), start)

    def reaching(own: Own, reach: Reach, how: Transport) -> Route:
        if reach.window is None:
            return route(own, reach, how)
        with pytest.MonkeyPatch.context() as within:
            within.setattr("parallel.sequence.plan.keys_before", needed)
            return route(_WithoutBorders(own.dealing, own.documents, own.rank), reach, how)

    patch.setattr("parallel.sequence.layout.route", reaching)


def full_layer_misses_keys_of_one_rank(patch: Patch) -> None:
    """What rank 1 should get from rank 0 is neither sent nor attended."""

    def forgetful(dealing: Dealing, documents: Documents, reach: Reach) -> KeyPlan:
        plan = plan_keys(dealing, documents, reach)
        if reach.window is not None:
            return plan
        receives = [list(sources) for sources in plan.receives]
        receives[1][0] = ()
        return replace(plan, receives=tuple(tuple(sources) for sources in receives))

    patch.setattr("parallel.sequence.route.plan_keys", forgetful)


def log_sum_exp_stays_that_of_the_first_part(patch: Patch) -> None:
    """With one merge a query the output is right, and the backward starts from the wrong sum."""

    def stale(o_THK: Tensor, lse_TH: Tensor, part_THK: Tensor, part_lse_TH: Tensor) -> None:
        merge_part(o_THK, lse_TH.clone(), part_THK, part_lse_TH)

    patch.setattr("parallel.sequence.ring.merge_part", stale)


def key_gradients_return_to_the_wrong_rows(patch: Patch) -> None:
    def shifted(x_T2GK: Tensor, pieces: tuple[range, ...], rows_R2GK: Tensor) -> None:
        add_rows(x_T2GK, pieces, rows_R2GK.roll(1, 0))

    patch.setattr("parallel.sequence.ring.add_rows", shifted)


def halo_gradients_do_not_return(patch: Patch) -> None:
    patch.setattr("parallel.sequence.exchanged.add_rows", lambda *_: None)


# Pipeline.


def first_layout_serves_all_micro_batches(patch: Patch) -> None:
    def forward(stage: ScheduledStage, *arguments: Any, **_: Any) -> Any:
        layout = stage._inputs.micro_batches[0].layout
        return stage.module(*arguments, layout, stage._inputs.at)

    patch.setattr(ScheduledStage, "forward_maybe_with_nosync", forward)


def gradient_of_the_tied_head_is_not_added(patch: Patch) -> None:
    """It arrives, and is added to a copy."""
    real = TiedWeight.add_gradient

    def lost(tied: TiedWeight, gradient: Tensor | None) -> None:
        real(tied, None if gradient is None else gradient.clone())

    patch.setattr(TiedWeight, "add_gradient", lost)


def tied_head_does_not_follow(patch: Patch) -> None:
    patch.setattr(TiedWeight, "follow", lambda _: None)


# Weights of micro-batches and ranks in the loss.


def _weighed(patch: Patch, weights: Callable[[WholeTrainer, Sequence[Any]], list[float]]) -> None:
    """Micro-batch after micro-batch is weighed as it should be and by one of these besides."""
    real = WholeTrainer.gradients

    def gradients(
        trainer: WholeTrainer,
        micro_batches: Sequence[Any],
        base: float,
        weigh: Weigh,
        *more: Any,
    ) -> StepSums:
        besides = iter(weights(trainer, micro_batches))

        def wrongly(total: Tensor) -> Tensor:
            return weigh(total) * next(besides)

        return real(trainer, micro_batches, base, wrongly, *more)

    patch.setattr(WholeTrainer, "gradients", gradients)


def every_micro_batch_weighs_the_same(patch: Patch) -> None:
    """The mean over its own tokens, whatever their number, and then over micro-batches."""

    def by_own_tokens(_: WholeTrainer, micro_batches: Sequence[Any]) -> list[float]:
        valid = [int((one.targets_T != IGNORE).sum()) for one in micro_batches]
        return [sum(valid) / len(valid) / max(1, own) for own in valid]

    _weighed(patch, by_own_tokens)


def loss_is_scaled_by_data_ranks_alone(patch: Patch) -> None:
    """ZeRO averages over data x sequence ranks."""

    def by_data(trainer: WholeTrainer, micro_batches: Sequence[Any]) -> list[float]:
        mesh = trainer.engine.mesh
        return [mesh.data.size / mesh.zero.size] * len(micro_batches)

    _weighed(patch, by_data)


@dataclass(frozen=True)
class Fault:
    """plant: what is put in place. case: the layout it is run on. in_steps: through three steps of the
    engine in float32, else through gradients in float64. shows, spares: patterns of what the check has to
    name as wrong and of what it must not."""

    plant: Callable[[Patch], None]
    case: Case
    in_steps: bool
    shows: str
    spares: str = "nothing is spared"

    @property
    def name(self) -> str:
        """In words."""
        return self.plant.__name__.replace("_", " ")


# One key/value head for two ranks. Zigzag gives rank 1 the middle; most keys it lacks are with rank 0.
TENSOR = Case(2, 1, 1, 1, "-", "-", 1, "llama", "everything")
SEQUENCE = Case(1, 1, 2, 1, "-", "zigzag", 2, "llama", "everything")
SEVERAL_KINDS = replace(SEQUENCE, model="cohere")
SKIPS = replace(TENSOR, rules="pose over rows")
STAGE = Case(1, 1, 1, 2, "-", "-", 1, "cohere", "everything", stage="ladder")
PIPELINE = Case(1, 2, 1, 1, "1f1b", "-", 2, "cohere", "everything")
_KEYS = r"k_proj|v_proj"
FAULTS = (
    Fault(norm_gradients_are_not_summed, TENSOR, False, r"\.norm", r"loss|_proj\.|embedding|head"),
    Fault(key_value_replicas_are_not_summed, TENSOR, False, _KEYS, r"loss|[._]norm|[qo]_proj|head"),
    Fault(key_value_replica_counts_twice_in_the_norm, TENSOR, True, "gradient norm of step 1"),
    Fault(every_rank_adds_the_whole_bias, TENSOR, False, r"(o|down)_proj\.bias", "loss|weight"),
    Fault(norm_over_all_heads_sees_those_of_its_rank, TENSOR, False, "loss", "valid tokens"),
    Fault(targets_are_dealt_contiguously, TENSOR, False, "loss", "valid tokens"),
    Fault(every_rank_counts_the_target, TENSOR, False, "loss", "valid tokens"),
    Fault(every_tensor_rank_counts_the_loss, TENSOR, True, "loss of step 1"),
    Fault(window_is_one_key_too_long, SEQUENCE, False, "loss"),
    Fault(halo_misses_its_first_key, SEQUENCE, False, "loss"),
    Fault(two_kinds_swap_their_windows_on_one_rank, SEVERAL_KINDS, False, "loss", "valid tokens"),
    Fault(chunk_is_one_token_too_long, SEVERAL_KINDS, False, "loss", "valid tokens"),
    Fault(chunks_are_counted_from_the_stream, SEVERAL_KINDS, False, "loss", "valid tokens"),
    Fault(chunks_are_counted_from_the_first_token_of_the_rank, SEVERAL_KINDS, False, "loss"),
    Fault(halo_reaches_into_another_document, SEQUENCE, False, "loss"),
    Fault(full_layer_misses_keys_of_one_rank, SEQUENCE, False, "loss"),
    # A wrong backward: what layers above the last full (5) or windowed (6) one get is still right.
    Fault(log_sum_exp_stays_that_of_the_first_part, SEQUENCE, False, "5.*q_proj", "loss|layers.6"),
    Fault(key_gradients_return_to_the_wrong_rows, SEQUENCE, False, _KEYS, "loss|layers.6"),
    Fault(halo_gradients_do_not_return, SEQUENCE, False, _KEYS, r"loss|6\.attention\.[qo]_proj"),
    Fault(positions_restart_at_the_chunk, SEQUENCE, False, "loss"),
    Fault(skips_are_drawn_per_rank, SKIPS, False, "loss"),
    Fault(windows_count_positions, SKIPS, False, "loss"),
    Fault(one_rank_keeps_the_settings_of_the_model, STAGE, False, "loss"),
    Fault(mask_is_off_on_one_rank, TENSOR, False, "loss"),
    Fault(last_target_of_a_chunk_is_lost, SEQUENCE, False, "valid tokens"),
    Fault(labels_are_shifted_by_one, SEQUENCE, False, "loss"),
    Fault(labels_of_the_whole_document_are_counted, SEQUENCE, False, "loss", "valid tokens"),
    Fault(labels_are_taken_before_the_cut, SEQUENCE, False, "valid tokens"),
    Fault(first_layout_serves_all_micro_batches, PIPELINE, False, "loss"),
    Fault(gradient_of_the_tied_head_is_not_added, PIPELINE, False, "embedding", "loss|layers"),
    Fault(tied_head_does_not_follow, PIPELINE, True, "loss of step 2"),
    Fault(every_micro_batch_weighs_the_same, SEQUENCE, True, "gradient norm of step 1"),
    Fault(loss_is_scaled_by_data_ranks_alone, SEQUENCE, True, "gradient norm of step 1"),
)
