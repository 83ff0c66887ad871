"""The health of layers on one process in float64, with dense logits and plain autograd.

It takes each number by its definition: norms of `grad`, weights before and after torch's AdamW, outputs of
hooked modules, and the logits of all visible pairs.
"""

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from model.attention.dense import DenseCore, visible_TS
from model.initialization import initialize
from model.packed_layout import PackedLayout
from model.reach import Reach
from model.transformer import Transformer
from tests.parity.engine_steps import CLIP, adamw
from tests.parity.layout_cases import Case
from tests.parity.streams import SEED, Z_LOSS, at, streams

Health = dict[str, dict[str, Any]]
STEPS = 2


class RecordingCore(DenseCore):
    """Dense attention that stores the largest logit of every call."""

    def __init__(self, softcap: float) -> None:
        super().__init__(softcap)
        self.largest: list[float] = []

    def __call__(
        self,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        layout: PackedLayout,
        reach: Reach,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        repeats = q_THK.shape[1] // k_TGK.shape[1]
        k_THK = torch.stack([k_TGK[:, head // repeats] for head in range(q_THK.shape[1])], dim=1)
        logits_HTS = torch.einsum("thk,shk->hts", q_THK, k_THK) / math.sqrt(q_THK.shape[-1])
        if self.softcap:
            logits_HTS = self.softcap * torch.tanh(logits_HTS / self.softcap)
        self.largest.append(float(logits_HTS.detach()[:, visible_TS(layout, reach)].max()))
        return super().__call__(q_THK, k_TGK, v_TGK, layout, reach, sinks_H)


def place(name: str) -> str:
    """The entry that a parameter belongs to."""
    first, *rest = name.split(".")
    ends = {"embedding": "embedding", "norm": "final_norm", "lm_head": "head"}
    return rest[0] if first == "layers" else ends[first]


def norms(named: dict[str, Tensor]) -> dict[str, float]:
    squares: dict[str, float] = {}
    for name, tensor in named.items():
        squares[place(name)] = squares.get(place(name), 0.0) + float(tensor.square().sum())
    return {name: math.sqrt(square) for name, square in squares.items()}


@cache
def oracle(case: Case, frozen: frozenset[str] = frozenset()) -> list[Health]:
    """The health at every step, on one process. frozen: the parameters that do not train."""
    config = case.at_stage
    core = RecordingCore(config.attention_softcap)
    model = Transformer(config, core)
    initialize(model, config, SEED)
    model.double()
    named = dict(model.named_parameters())
    for name in frozen:
        named[name].requires_grad_(False)
    trained = [(name, parameter) for name, parameter in named.items() if name not in frozen]
    take_step = adamw(trained)
    found = []
    for number in range(STEPS):
        core.largest.clear()
        model.zero_grad()
        streams_of = _watched(model)
        batch = streams(case, first=number * 8)
        for one in batch:
            layout = PackedLayout.from_lengths(one.lengths, positions_T=one.positions_T)
            hidden_TD = model(one.tokens_T, layout, at(config))
            sums = model.loss(hidden_TD, one.targets_T, Z_LOSS)
            (sums.total / sum(b.valid_tokens for b in batch)).backward()
        gradients = norms({name: p.grad for name, p in trained})
        before = {name: p.detach().clone() for name, p in named.items()}
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        take_step()
        after = norms({name: p.detach() for name, p in named.items()})
        changes = norms({name: p.detach() - before[name] for name, p in named.items()})
        health: Health = {
            name: {
                "gradient_norm": gradients.get(name),
                "update_to_weight": changes[name] / after[name],
            }
            for name in after
        }
        for name, outputs in streams_of.items():
            whole = torch.cat(outputs)
            health[name]["activation_rms"] = float(whole.square().mean().sqrt())
        layers = len(model.layers)
        for layer in range(layers):
            health[str(layer)]["largest_attention_logit"] = max(core.largest[layer::layers])
        found.append(health)
    return found


def _watched(model: Transformer) -> dict[str, list[Tensor]]:
    """Collects the residual stream after every place, in the forwards to come."""
    found: dict[str, list[Tensor]] = {}

    def watch(name: str, module: nn.Module, scale: float = 1.0) -> None:
        module._forward_hooks.clear()
        found[name] = []
        module.register_forward_hook(
            lambda _, __, output: found[name].append(output.detach() * scale)
        )

    watch("embedding", model.embedding, model.config.embedding_scale)
    watch("final_norm", model.norm)
    for index, layer in model.layers.items():
        watch(index, layer)
    return found
