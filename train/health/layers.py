"""The health of every layer at one step: gradient norm, update-to-weight ratio, activation RMS, largest logit.

Each rank has sums of what it holds (`model/layer_sums.py`, `parallel/engine/step_squares.py`). The sums of all ranks
are gathered, and added up on the host.
"""

import math
from typing import Any

import torch

from model.config import ModelConfig
from model.layer_pattern import expand_pattern
from model.layer_sums import EMBEDDING, LayerSums, after_layer
from parallel.engine.engine import TrainingEngine
from parallel.mesh import Mesh
from train.records.metrics_log import finite_or_null


def health_of_layers(
    sums: LayerSums, engine: TrainingEngine, mesh: Mesh, model: ModelConfig
) -> dict[str, Any]:
    """Returns the numbers of embedding, layers, final norm and head by name, as metrics.jsonl has them. Collective.

    A number that is not finite, or that a place does not have, is None.
    """
    squares_3P = torch.zeros_like(sums.table_3P)
    for name, of_name in engine.squares.by_name().items():
        squares_3P[:, place_of(name, model)] += of_name
    gathered = mesh.gather_world(torch.cat((squares_3P, sums.table_3P)).flatten().cpu())
    tables_R6P = gathered.view(mesh.world_size, 6, -1)
    added_5P, largest_P = tables_R6P[:, :5].sum(dim=0), tables_R6P[:, 5].amax(dim=0)
    training = engine.parameters.training
    names = engine.parameters.everywhere
    trained = {place_of(name, model) for name in names if not training.is_frozen(name)}
    found = {
        label: {"kind": kind, **_numbers(added_5P[:, place].tolist(), trains=place in trained)}
        for place, (label, kind) in enumerate(labels(model))
        if any(added_5P[:, place])
    }
    for layer in range(model.num_layers):
        logit = attention_logit(float(largest_P[after_layer(layer)]), model)
        found[str(layer)]["largest_attention_logit"] = logit
    cleaned: dict[str, Any] = finite_or_null(found)
    return cleaned


def labels(model: ModelConfig) -> list[tuple[str, str]]:
    """Returns name and kind of every place, in order; see `model/layer_sums.py`."""
    layers = [(str(layer), spec.kind) for layer, spec in enumerate(expand_pattern(model))]
    ends = ("final_norm", "final_norm"), ("head", "head")
    return [("embedding", "embedding"), *layers, *ends]


def place_of(name: str, model: ModelConfig) -> int:
    """Returns the place of a parameter, by its name in the Transformer."""
    if name.startswith("layers."):
        return after_layer(int(name.split(".")[1]))
    if name.startswith("embedding."):
        return EMBEDDING
    return after_layer(model.num_layers + name.startswith("lm_head."))


def attention_logit(product: float, model: ModelConfig) -> float:
    """Returns the logit of a product of query and key, as the softmax takes it."""
    logit, cap = product * model.head_dim**-0.5, model.attention_softcap
    return cap * math.tanh(logit / cap) if cap else logit


def _numbers(added: list[float], *, trains: bool) -> dict[str, float]:
    gradient, change, weight, activation, elements = added
    return {
        "gradient_norm": math.sqrt(gradient) if trains else math.nan,
        "update_to_weight": _ratio(change, weight),
        "activation_rms": _ratio(activation, elements),
    }


def _ratio(square: float, of: float) -> float:
    """Returns the square root of a ratio of sums; NaN without any."""
    return math.sqrt(square / of) if of else math.nan
