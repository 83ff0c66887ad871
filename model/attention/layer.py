"""One attention layer: project, (normalise,) (rotate,) (normalise,) attend, (gate,) project back.

The `KindAtStep` given in the forward decides whether the layer rotates and how far a token sees. The
attention core is an attribute, so that sequence parallelism can replace it.

Shape letters: T tokens, D width, H query heads, G key/value heads, K head dimension, W numbers of the gate.
"""

from contextlib import nullcontext
from functools import partial

from torch import Tensor, nn

from model.attention.core import AttentionCore
from model.attention.gate import gated
from model.attention.gate_sums import GateSums
from model.attention.learned_vector import LearnedVector
from model.attention.static_gate import StaticGate, scaled
from model.config import ModelConfig
from model.kind_at_step import KindAtStep
from model.layer_pattern import LayerSpec
from model.layer_sums import LayerSums
from model.norm import HeadsNorm, build_norm
from model.packed_layout import PackedLayout
from model.parameters import reduced_width
from model.position.positioning import LearnedScale, Positioning, scale_queries, turn
from model.products import Linear
from model.reach import Reach

# Queries, keys, values, and the product of the output gate (T, H) or (T, H K), None without one.
Projected = tuple[Tensor, Tensor, Tensor, Tensor | None]


class Attention(nn.Module):
    """Grouped-query attention. Holds the projections; `core` computes attention."""

    def __init__(self, config: ModelConfig, spec: LayerSpec, core: AttentionCore) -> None:
        super().__init__()
        self.spec = spec
        self.core = core
        self.head_dim = config.head_dim
        query_width = config.num_heads * config.head_dim
        key_width = config.num_kv_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, query_width, bias=config.qkv_bias)
        self.k_proj = Linear(config.hidden_size, key_width, bias=config.qkv_bias)
        self.v_proj = Linear(config.hidden_size, key_width, bias=config.qkv_bias)
        self.o_proj = Linear(query_width, config.hidden_size, bias=config.output_bias)
        self.value_scale = spec.value_scale
        # Output gate: over channels, over heads, or none.
        self.gate = spec.gate
        # Where the gates and logits of measured steps go, and under which number of layer.
        self.gate_sums: GateSums | None = None
        self.layer_sums: LayerSums | None = None
        self.layer = -1
        self.gate_proj: Linear | None = None
        self.head_gate_proj: Linear | None = None
        if spec.gate != "none" and spec.gate_over == "channel":
            self.gate_proj = Linear(config.hidden_size, query_width)
        elif spec.gate != "none":
            self.head_gate_proj = Linear(config.hidden_size, config.num_heads)
        # Static gate: over channels, over heads, or none.
        self.static_gate: StaticGate | None = None
        self.head_static_gate: StaticGate | None = None
        if spec.static_gate == "channel":
            self.static_gate = StaticGate(query_width, reduced_width(query_width))
        elif spec.static_gate == "head":
            self.head_static_gate = StaticGate(config.num_heads, reduced_width(config.num_heads))
        # Norms over the queries and keys of each head, with one weight or one for each head, or of all heads together.
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        self.q_heads_norm: nn.Module = nn.Identity()
        self.k_heads_norm: nn.Module = nn.Identity()
        self.q_projection_norm: nn.Module = nn.Identity()
        self.k_projection_norm: nn.Module = nn.Identity()
        norm = partial(build_norm, config.norm, eps=config.norm_eps, learned=spec.qk_norm_weight)
        if spec.qk_norm and config.qk_norm_over == "projection":
            self.q_projection_norm, self.k_projection_norm = norm(query_width), norm(key_width)
        elif spec.qk_norm and config.qk_norm_over == "each_head" and spec.qk_norm_weight:
            for_heads = partial(
                HeadsNorm, config.norm, head_dim=config.head_dim, eps=config.norm_eps
            )
            self.q_heads_norm = for_heads(config.num_heads)
            self.k_heads_norm = for_heads(config.num_kv_heads)
        elif spec.qk_norm:
            self.q_norm, self.k_norm = norm(config.head_dim), norm(config.head_dim)
        self.normalises_rotated = spec.qk_norm and spec.qk_norm_at == "after"
        self.query_scale = config.query_scale
        self.position_scale = LearnedScale(config.num_heads) if spec.learns_scale else None
        self.sinks = LearnedVector(config.num_heads) if spec.sinks else None

    def forward(self, x_TD: Tensor, layout: PackedLayout, at: KindAtStep) -> Tensor:
        """(T, D) to (T, D); tokens of different documents never mix."""
        q_THK, k_TGK, v_TGK, gate_TW = self.positioned(x_TD, at.positioning)
        self.count_gate(gate_TW)
        return self.output(self.attend(q_THK, k_TGK, v_TGK, layout, at.reach), gate_TW)

    def project(self, x_TD: Tensor) -> Projected:
        """Queries, keys and values of these tokens, before rotation, and the product of the gate; token-wise."""
        heads = (-1, self.head_dim)
        q_THK = self.q_proj(x_TD).unflatten(-1, heads)
        k_TGK = self.k_proj(x_TD).unflatten(-1, heads)
        if not self.normalises_rotated:
            q_THK, k_TGK = self._normalised(q_THK, k_TGK)
        v_TGK = self.v_proj(x_TD).unflatten(-1, heads)
        if self.value_scale != 1.0:
            v_TGK = v_TGK * self.value_scale
        gate_proj = self.gate_proj or self.head_gate_proj
        return q_THK, k_TGK, v_TGK, None if gate_proj is None else gate_proj(x_TD)

    def positioned(self, x_TD: Tensor, positioning: Positioning) -> Projected:
        """As `project`, with the positions in queries and keys: the input of `attend` and `output`."""
        q_THK, k_TGK, v_TGK, gate_TW = self.project(x_TD)
        return *self.position(q_THK, k_TGK, positioning), v_TGK, gate_TW

    def position(
        self, q_THK: Tensor, k_TGK: Tensor, positioning: Positioning
    ) -> tuple[Tensor, Tensor]:
        """Rotates queries and keys, normalises rotated ones and scales queries, as far as they are; token-wise."""
        q_THK, k_TGK = turn(q_THK, k_TGK, positioning.rotation)
        if self.normalises_rotated:
            q_THK, k_TGK = self._normalised(q_THK, k_TGK)
        scale = scale_queries if self.position_scale is None else self.position_scale
        return scale(q_THK, positioning.query_factors_T), k_TGK

    def _normalised(self, q_THK: Tensor, k_TGK: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys, normalised if this layer does so, and queries times the model's scale."""
        q_THK = self.q_heads_norm(self.q_projection_norm(q_THK.flatten(-2)).view_as(q_THK))
        k_TGK = self.k_heads_norm(self.k_projection_norm(k_TGK.flatten(-2)).view_as(k_TGK))
        q_THK, k_TGK = self.q_norm(q_THK), self.k_norm(k_TGK)
        return (q_THK if self.query_scale == 1.0 else q_THK * self.query_scale), k_TGK

    def attend(
        self,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        layout: PackedLayout,
        reach: Reach,
    ) -> Tensor:
        """Attention's output (T, H K) times its static gate. Tokens see tokens of their own document only.

        reach: as in `KindAtStep`.
        """
        sinks = () if self.sinks is None else (self.sinks(),)
        sums = self.layer_sums
        with nullcontext() if sums is None else sums.noting_logits(self.layer):
            o_TD = self.core(q_THK, k_TGK, v_TGK, layout, reach, *sinks).flatten(-2)
        static_gate = self.static_gate or self.head_static_gate
        return o_TD if static_gate is None else scaled(o_TD, static_gate())

    def count_gate(self, gate_TW: Tensor | None) -> None:
        """Adds the gate of these tokens to the sums of a measured step; not to be compiled."""
        if self.gate_sums is not None and gate_TW is not None:
            self.gate_sums.add(self.layer, self.gate, gate_TW)

    def output(self, o_TD: Tensor, gate_TW: Tensor | None) -> Tensor:
        """Attention's output (T, H K), gated and projected: (T, D); token-wise.

        gate_TW: the product of the gate, as returned by `project`; None without a gate.
        """
        if gate_TW is not None:
            o_TD = gated(o_TD, gate_TW, self.gate)
        output_TD: Tensor = self.o_proj(o_TD)
        return output_TD
