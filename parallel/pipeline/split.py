"""The layers of every pipeline stage, and checks of pipeline layouts."""

from collections.abc import Sequence
from itertools import accumulate, count

from model.config import ModelConfig
from model.layer_pattern import layer_kinds
from parallel.config import ParallelConfig
from parallel.pipeline.balance import balanced_sizes, head_cost, layer_costs
from parallel.pipeline.placement import place_stages


def split_layers(
    config: ModelConfig, parallel: ParallelConfig, sequence_length: int
) -> tuple[range, ...]:
    """Returns the layers of every stage, in order: from `pipeline_split`, or balanced at this sequence length.

    The first stage also holds the embedding, the last one the final norm and the head.
    """
    placement = place_stages(parallel)
    sizes: Sequence[int] = parallel.pipeline_split
    if not sizes:
        costs, head = layer_costs(config, sequence_length), head_cost(config, sequence_length)
        sizes = balanced_sizes(costs, head, placement)
    return tuple(range(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True))


def pipeline_problems(
    config: ModelConfig, parallel: ParallelConfig, *, micro_batches: int, keep_for_backward: str
) -> list[str]:
    """Returns why a layout with more than one pipeline rank cannot run, one line each.

    micro_batches: number in one optimizer step on one data rank, the smallest over the stages of the run.
    """
    found = []
    if parallel.pipeline_schedule == "zbv" and keep_for_backward != "everything":
        found.append(
            f"train.keep_for_backward={keep_for_backward}: zbv computes the gradient of every weight "
            "separately, and would recompute a layer for each; use train.keep_for_backward=everything "
            "or parallel.pipeline_schedule=1f1b"
        )
    sinks = {kind: spec for kind, spec in layer_kinds(config).items() if spec.sinks}
    if parallel.pipeline_schedule == "zbv" and sinks:
        key = "model.sinks" if config.sinks else f"model.kinds.{next(iter(sinks))}.sinks"
        found.append(
            f"{key}=True: zbv computes the gradient of every weight separately, and would run attention's "
            "backward again for the sinks; use parallel.pipeline_schedule=1f1b"
        )
    found += _micro_batch_problems(parallel, micro_batches)
    found += _split_problems(config, parallel)
    return found


def _micro_batch_problems(parallel: ParallelConfig, micro_batches: int) -> list[str]:
    ranks, schedule = parallel.pipeline, parallel.pipeline_schedule
    says = (
        f"parallel.pipeline_schedule={schedule}: {micro_batches} micro-batches a data rank and step"
    )
    if schedule == "1f1b" and micro_batches < ranks:
        return [
            f"{says} on parallel.pipeline={ranks}; 1f1b needs at least one per pipeline rank: use "
            "smaller micro-batches, larger batches or fewer pipeline ranks"
        ]
    rounds = max(1, micro_batches // ranks)
    if schedule == "interleaved_1f1b" and micro_batches % rounds:
        # Multiples of the ranks are whole rounds, so both searches are short.
        below = next(m for m in count(micro_batches, -1) if m % max(1, m // ranks) == 0)
        above = next(m for m in count(micro_batches) if m % max(1, m // ranks) == 0)
        return [
            f"{says} on parallel.pipeline={ranks} run in {rounds} rounds, which must divide their number; "
            f"use {below} or {above}"
        ]
    return []


def _split_problems(config: ModelConfig, parallel: ParallelConfig) -> list[str]:
    split, ranks = parallel.pipeline_split, parallel.pipeline
    placement = place_stages(parallel)
    if not split:
        if config.num_layers >= placement.num_stages - 1:
            return []
        return [
            f"parallel.pipeline={ranks}: {parallel.pipeline_schedule} makes {placement.num_stages} "
            f"stages of model.num_layers={config.num_layers}, and only the last may be without a "
            "layer; use fewer pipeline ranks"
        ]
    key, found = f"parallel.pipeline_split={list(split)}", []
    if parallel.pipeline_schedule == "interleaved_1f1b":
        if len(split) < 2 * ranks or len(split) % ranks:
            found.append(
                f"{key}: interleaved_1f1b needs two or more stages on each of {ranks} ranks; give "
                f"{2 * ranks}, {3 * ranks} or another multiple of {ranks} numbers"
            )
    elif len(split) != placement.num_stages:
        found.append(
            f"{key}: {parallel.pipeline_schedule} on {ranks} ranks has {placement.num_stages} stages; "
            f"give {placement.num_stages} numbers"
        )
    if sum(split) != config.num_layers:
        found.append(
            f"{key}: must add up to model.num_layers={config.num_layers}, not {sum(split)}"
        )
    if min(split) < 0 or 0 in split[:-1]:
        found.append(f"{key}: every stage but the last (the head's) needs a layer; give 1 or more")
    return found
