"""One attention layer: project, (normalise,) (rotate,) attend, project back.

The `KindAtStep` given in the forward decides whether the layer rotates and how far a token sees. The
attention core is an attribute, so that sequence parallelism can replace it.

Shape letters: T tokens, D width, H query heads, G key/value heads, K head dimension.
"""

from torch import Tensor, nn

from model.attention.core import AttentionCore
from model.attention.sinks import Sinks
from model.config import ModelConfig
from model.kind_at_step import KindAtStep
from model.layer_pattern import LayerSpec
from model.norm import build_norm
from model.packed_layout import PackedLayout
from model.position.placing import LearnedScale, Placing, scale_queries
from model.position.rotation import rotate
from model.products import Linear
from model.reach import Reach


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
        # Norms over the queries and keys of each head, or of all heads together.
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        self.q_projection_norm: nn.Module = nn.Identity()
        self.k_projection_norm: nn.Module = nn.Identity()
        if config.qk_norm and config.qk_norm_over == "projection":
            self.q_projection_norm = build_norm(config.norm, query_width, config.norm_eps)
            self.k_projection_norm = build_norm(config.norm, key_width, config.norm_eps)
        elif config.qk_norm:
            self.q_norm = build_norm(config.norm, config.head_dim, config.norm_eps)
            self.k_norm = build_norm(config.norm, config.head_dim, config.norm_eps)
        self.query_scale = config.query_scale
        self.position_scale = LearnedScale(config.num_heads) if spec.learns_scale else None
        self.sinks = Sinks(config.num_heads) if spec.sinks else None

    def forward(self, x_TD: Tensor, layout: PackedLayout, at: KindAtStep) -> Tensor:
        """(T, D) to (T, D); tokens of different documents never mix."""
        qkv = self.placed(x_TD, at.placing)
        output_TD: Tensor = self.o_proj(self.attend(*qkv, layout, at.reach))
        return output_TD

    def project(self, x_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of these tokens, before rotation; token-wise."""
        heads = (-1, self.head_dim)
        q_THK = self.q_norm(self.q_projection_norm(self.q_proj(x_TD)).unflatten(-1, heads))
        k_TGK = self.k_norm(self.k_projection_norm(self.k_proj(x_TD)).unflatten(-1, heads))
        if self.query_scale != 1.0:
            q_THK = q_THK * self.query_scale
        return q_THK, k_TGK, self.v_proj(x_TD).unflatten(-1, heads)

    def placed(self, x_TD: Tensor, placing: Placing) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys with their positions, and values: the input of `attend`."""
        q_THK, k_TGK, v_TGK = self.project(x_TD)
        return *self.place(q_THK, k_TGK, placing), v_TGK

    def place(self, q_THK: Tensor, k_TGK: Tensor, placing: Placing) -> tuple[Tensor, Tensor]:
        """Rotates queries and keys and scales queries, as far as `placing` says; token-wise."""
        q_THK, k_TGK = rotate(q_THK, placing.rotation), rotate(k_TGK, placing.rotation)
        scale = scale_queries if self.position_scale is None else self.position_scale
        return scale(q_THK, placing.query_factors_T), k_TGK

    def attend(
        self,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        layout: PackedLayout,
        reach: Reach,
    ) -> Tensor:
        """Attention's output (T, H K), the input of `o_proj`. Tokens see tokens of their own document only.

        reach: as in `KindAtStep`.
        """
        sinks = () if self.sinks is None else (self.sinks(),)
        return self.core(q_THK, k_TGK, v_TGK, layout, reach, *sinks).flatten(-2)
