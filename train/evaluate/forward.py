"""Builds a model for forwards alone: cut by tensor, sequence and pipeline ranks, without engine and gradients."""

from torch import Tensor

from model.attention.core import choose_core
from parallel.engine.materialise import materialise
from parallel.engine.settings import DTYPES
from parallel.mesh import Mesh
from parallel.parallelize import build_local, compile_stages, finish
from parallel.pipeline.runner import PipelineRunner
from parallel.sequence.traffic import TrafficMeter
from parallel.tensor.cut import cut_of
from train.build_trainer import compiles
from train.configuration.schema import RunConfig
from train.evaluate.subject import Whole
from train.objective import NextTokenLoss
from train.predictor import Predictor, StagedPredictor, WholePredictor


def build_predictor(
    config: RunConfig, mesh: Mesh, *, sequence_length: int, whole: Whole
) -> Predictor:
    """Returns the predictor of this rank: its part of the model with the weights that `whole` returns. Collective.

    sequence_length: for which pipeline stages are balanced.
    """
    model, parallel = config.model, config.parallel
    dtype = DTYPES[config.train.precision]
    core = choose_core(
        model.attention_backend, mesh.device, dtype, model.head_dim, model.attention_softcap
    )
    local = build_local(
        model, core, mesh, parallel, sequence_length=sequence_length, traffic=TrafficMeter()
    )
    # A tied head on another stage than the embedding has the embedding's weight.
    tied = {"lm_head.weight": "embedding.weight"} if model.tie_embeddings else {}

    def fill(name: str, tensor: Tensor) -> None:
        name = tied.get(name, name)
        full = whole(name)
        tensor.copy_(full[cut_of(name, model, mesh.tensor.rank, mesh.tensor.size).part(full.shape)])

    for stage in local.stages:
        materialise(stage, fill, device=mesh.device, dtype=dtype, mesh=mesh)
    finish(local, mesh)
    for stage in local.stages:
        stage.requires_grad_(requires_grad=False).eval()
    if compiles(config, mesh, parallel):
        compile_stages(local)
    if mesh.pipeline.size > 1:
        return StagedPredictor(PipelineRunner(local.stages, local.placement, mesh), mesh)
    return WholePredictor(NextTokenLoss(local.stages[0], z_loss=0.0), mesh)
