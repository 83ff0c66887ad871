"""The two residual blocks, built from one `LayerSpec` each.

    parallel (Cohere)    n = norm(x)    y = x + attention(n) + feed_forward(n)

    sequential (Llama)   h = x + attention(norm(x))    y = h + feed_forward(feed_forward_norm(h))

The sequential block may normalise after attention and feed-forward instead (OLMo 2), or both before and after
(Gemma):

    h = x + post_norm(attention(norm(x)))    y = h + feed_forward_post_norm(feed_forward(feed_forward_norm(h)))

In both blocks `residual_scale` multiplies what is added to the residual stream (Granite); with 1 the sum is exact.

Only attention mixes tokens and communicates between ranks. The code before and after attention is token-wise; both
parts are methods, which `regions` can compile. The parallel block computes its feed-forward in `before`, where the
normalised input is available:

    parallel     before: q, k, v, g, r = x + feed_forward(n)     after: y = r + output(o, g)
    sequential   before: q, k, v, g, r = x                       after: h = r + output(o, g), y = h + ...

g is the product of the output gate, None without a gate.

Shape letters: T tokens, D width, H query heads, G key/value heads, K head dimension, W numbers of the gate.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from model.attention.core import AttentionCore
from model.attention.layer import Attention
from model.config import ModelConfig
from model.feed_forward.dense import FeedForward
from model.kind_at_step import KindAtStep
from model.layer_pattern import LayerSpec
from model.norm import build_norm
from model.packed_layout import PackedLayout
from model.position.positioning import Positioning

# Queries, keys, values, the product of the gate, and the residual stream, to which attention's output will be added.
BeforeAttention = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]


class Block(nn.Module, ABC):
    """Base class of both blocks: the norm, the attention layer and the forward pass."""

    def __init__(self, config: ModelConfig, spec: LayerSpec, core: AttentionCore) -> None:
        super().__init__()
        self.norm = build_norm(config.norm, config.hidden_size, config.norm_eps)
        self.attention = Attention(config, spec, core)
        self.residual_scale = config.residual_scale

    def forward(self, x_TD: Tensor, layout: PackedLayout, at: KindAtStep) -> Tensor:
        """(T, D) to (T, D)."""
        q_THK, k_TGK, v_TGK, gate_TW, r_TD = self.before(x_TD, at.positioning)
        self.attention.count_gate(gate_TW)
        o_TD = self.attention.attend(q_THK, k_TGK, v_TGK, layout, at.reach)
        return self.after(r_TD, o_TD, gate_TW)

    @abstractmethod
    def before(self, x_TD: Tensor, positioning: Positioning) -> BeforeAttention:
        """Map the block's input to queries, keys, values, the product of the gate and the residual stream."""

    @abstractmethod
    def after(self, r_TD: Tensor, o_TD: Tensor, gate_TW: Tensor | None) -> Tensor:
        """Map the residual stream, attention's output (T, H K) and the gate's product to the block's output."""


class ParallelBlock(Block):
    """Attention and feed-forward read the same normalised input and are added together."""

    def __init__(self, config: ModelConfig, spec: LayerSpec, core: AttentionCore) -> None:
        super().__init__(config, spec, core)
        self.feed_forward = build_feed_forward(config)

    def before(self, x_TD: Tensor, positioning: Positioning) -> BeforeAttention:
        """See `Block`."""
        n_TD = self.norm(x_TD)
        positioned = self.attention.positioned(n_TD, positioning)
        return *positioned, torch.add(x_TD, self.feed_forward(n_TD), alpha=self.residual_scale)

    def after(self, r_TD: Tensor, o_TD: Tensor, gate_TW: Tensor | None) -> Tensor:
        """See `Block`."""
        return torch.add(r_TD, self.attention.output(o_TD, gate_TW), alpha=self.residual_scale)


class SequentialBlock(Block):
    """The feed-forward reads the residual stream after attention's output has been added."""

    def __init__(self, config: ModelConfig, spec: LayerSpec, core: AttentionCore) -> None:
        super().__init__(config, spec, core)
        before, after = config.norm_at != "after", config.norm_at != "before"
        if not before:
            self.norm = nn.Identity()
        self.post_norm = _norm(config, present=after)
        self.feed_forward_norm = _norm(config, present=before)
        self.feed_forward_post_norm = _norm(config, present=after)
        self.feed_forward = build_feed_forward(config)

    def before(self, x_TD: Tensor, positioning: Positioning) -> BeforeAttention:
        """See `Block`."""
        return *self.attention.positioned(self.norm(x_TD), positioning), x_TD

    def after(self, r_TD: Tensor, o_TD: Tensor, gate_TW: Tensor | None) -> Tensor:
        """See `Block`."""
        a_TD = self.post_norm(self.attention.output(o_TD, gate_TW))
        h_TD = torch.add(r_TD, a_TD, alpha=self.residual_scale)
        f_TD = self.feed_forward_post_norm(self.feed_forward(self.feed_forward_norm(h_TD)))
        return torch.add(h_TD, f_TD, alpha=self.residual_scale)


# Keys: the values of `ModelConfig.block`.
BLOCKS = {"parallel": ParallelBlock, "sequential": SequentialBlock}


def build_feed_forward(config: ModelConfig) -> FeedForward:
    """The feed-forward named in the configuration."""
    return FeedForward(
        config.hidden_size,
        config.intermediate_size,
        activation=config.activation,
        bias=config.feed_forward_bias,
    )


def _norm(config: ModelConfig, *, present: bool) -> nn.Module:
    if not present:
        return nn.Identity()
    return build_norm(config.norm, config.hidden_size, config.norm_eps)


def build_block(config: ModelConfig, spec: LayerSpec, core: AttentionCore) -> nn.Module:
    """The block named in the configuration."""
    return BLOCKS[config.block](config, spec, core)
