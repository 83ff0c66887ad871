"""Parallelises the model: all steps, in order.

    on the meta device     1. pipeline   the layers of this rank's stages, and no others, are built
                           2. tensor     matrices cut, residual stream cut by tokens, loss over a cut vocabulary
                           3. sequence   attention cores that receive the keys other ranks hold
    (materialised by parallel/engine/materialise.py, each parameter by its name)
    with real parameters   4. groups     frozen parameters need no gradient
                           5. tensor     gradients of replicated parameters are summed; the norm counts each once
                           6. pipeline   a tied head is kept equal to the embedding of another rank
                           7. compiler   the regions between attention calls, unless `regions_obstacle` returns a reason

Data parallelism and ZeRO come last, in the engine. The steps of an axis with one rank do nothing.
"""

from dataclasses import dataclass
from itertools import accumulate
from operator import or_

import torch
from torch import nn

from model.attention.core import AttentionCore
from model.attention.layer import Attention
from model.config import ModelConfig
from model.layer_pattern import layer_kinds
from model.parameters import numbers_of, parameter_names
from model.regions import compile_regions
from model.transformer import Transformer
from parallel.config import ParallelConfig
from parallel.engine.training import ORDINARILY, Training
from parallel.mesh import Mesh
from parallel.parameters import NamedParameters
from parallel.pipeline.placement import Placement, place_stages
from parallel.pipeline.split import split_layers
from parallel.pipeline.tied import TiedWeight
from parallel.sequence.core import SequenceCore
from parallel.sequence.ring import RingCore
from parallel.sequence.traffic import TrafficMeter
from parallel.sequence.window import WindowCore
from parallel.sequence.wire import Buffers
from parallel.tensor.apply import cut_model
from parallel.tensor.gradients import mark_owners, sum_replicated_gradients


@dataclass(frozen=True)
class LocalModel:
    """The pipeline stages of the model on this rank, ascending: one, or several where the schedule has them.

    layers: of every stage of the pipeline, on whatever rank.
    """

    stages: tuple[Transformer, ...]
    placement: Placement
    layers: tuple[range, ...]

    @property
    def module(self) -> nn.Module:
        """All stages of this rank as one module."""
        return nn.ModuleList(self.stages)

    def differentiated(self, training: Training) -> tuple[bool, ...]:
        """Returns whether the output of each stage depends on a trained parameter, and so has a gradient."""
        last, config = len(self.layers) - 1, self.stages[0].config
        trains = []
        for index, layers in enumerate(self.layers):
            ends = {"has_embedding": index == 0, "has_head": index == last}
            names = parameter_names(config, layers, **ends)
            trains.append(not all(training.is_frozen(numbers_of(name, config)) for name in names))
        return tuple(accumulate(trains, or_))


def build_local(
    config: ModelConfig,
    core: AttentionCore,
    mesh: Mesh,
    parallel: ParallelConfig,
    *,
    sequence_length: int,
    traffic: TrafficMeter,
) -> LocalModel:
    """Returns this rank's part of the model on the meta device, after steps 1 to 3.

    core: attention where no sequence axis cuts the stream. sequence_length: at which stages are balanced. traffic:
    counts the bytes that sequence parallelism receives.
    """
    placement = place_stages(parallel)
    layers = split_layers(config, parallel, sequence_length)
    with torch.device("meta"):
        stages = tuple(
            Transformer(
                config,
                core,
                layer_indices=layers[index],
                has_embedding=index == 0,
                has_head=index == placement.num_stages - 1,
            )
            for index in placement.stages_of(mesh.pipeline.rank)
        )
    for stage in stages:
        cut_model(stage, mesh.tensor)
    if mesh.sequence.size > 1:
        _put_sequence_cores(stages, mesh, traffic)
    return LocalModel(stages, placement, layers)


def _put_sequence_cores(stages: tuple[Transformer, ...], mesh: Mesh, traffic: TrafficMeter) -> None:
    """Gives every layer the core of its kind."""
    config, buffers = stages[0].config, Buffers()
    cap = config.attention_softcap
    cores: dict[str, AttentionCore] = {
        kind: SequenceCore(
            RingCore(kind, mesh.sequence, traffic, cap, buffers),
            WindowCore(kind, mesh.window, traffic, cap),
        )
        for kind in layer_kinds(config)
    }
    for stage in stages:
        for module in stage.modules():
            if isinstance(module, Attention):
                module.core = cores[module.spec.kind]


def finish(
    local: LocalModel, mesh: Mesh, training: Training = ORDINARILY
) -> tuple[NamedParameters, TiedWeight]:
    """Runs steps 4 to 6; call once the parameters have storage and values.

    Returns the parameters that this rank answers for, and what keeps a tied head equal to the embedding.
    """
    config, ranks = local.stages[0].config, mesh.tensor
    named: dict[str, nn.Parameter] = {}
    for stage in local.stages:
        for name, parameter in stage.named_parameters():
            parameter.requires_grad_(not training.is_frozen(numbers_of(name, config)))
        sum_replicated_gradients(stage, mesh.tensor)
        mark_owners(stage, mesh.tensor)
    trains = not training.is_frozen("embedding.weight")
    tied = TiedWeight(local.stages, local.placement, mesh, trains=trains)
    for stage in local.stages:
        for name, parameter in stage.named_parameters():
            # A head tied to the embedding is no parameter of its own, wherever the embedding is.
            if parameter is not tied.follower and all(parameter is not p for p in named.values()):
                named[name] = parameter
    return NamedParameters(named, config, ranks.rank, ranks.size, training), tied


def compile_stages(local: LocalModel) -> None:
    """Runs step 7: compiles the regions between attention calls."""
    for stage in local.stages:
        compile_regions(stage)
