"""The two residual blocks, built from one `LayerSpec` each.

    parallel (Cohere)    n = norm(x)    y = x + attention(n) + feed_forward(n)

    sequential (Llama)   h = x + attention(norm(x))    y = h + feed_forward(feed_forward_norm(h))

Shape letters: T tokens, D width.
"""

from torch import Tensor, nn

from model.attention import Attention
from model.attention_core import AttentionCore
from model.config import ModelConfig
from model.feed_forward import FeedForward
from model.layer_pattern import LayerSpec
from model.norm import build_norm
from model.packed_layout import PackedLayout
from model.rope import Rotation


class ParallelBlock(nn.Module):
    """Attention and feed-forward read the same normalised input and are added together."""

    def __init__(self, config: ModelConfig, spec: LayerSpec, core: AttentionCore) -> None:
        super().__init__()
        self.norm = build_norm(config.norm, config.hidden_size, config.norm_eps)
        self.attention = Attention(config, spec, core)
        self.feed_forward = FeedForward(config.hidden_size, config.intermediate_size)

    def forward(self, x_TD: Tensor, layout: PackedLayout, rotation: Rotation) -> Tensor:
        """(T, D) to (T, D)."""
        n_TD = self.norm(x_TD)
        output_TD: Tensor = x_TD + self.attention(n_TD, layout, rotation) + self.feed_forward(n_TD)
        return output_TD


class SequentialBlock(nn.Module):
    """The feed-forward reads what attention wrote."""

    def __init__(self, config: ModelConfig, spec: LayerSpec, core: AttentionCore) -> None:
        super().__init__()
        self.norm = build_norm(config.norm, config.hidden_size, config.norm_eps)
        self.attention = Attention(config, spec, core)
        self.feed_forward_norm = build_norm(config.norm, config.hidden_size, config.norm_eps)
        self.feed_forward = FeedForward(config.hidden_size, config.intermediate_size)

    def forward(self, x_TD: Tensor, layout: PackedLayout, rotation: Rotation) -> Tensor:
        """(T, D) to (T, D)."""
        h_TD = x_TD + self.attention(self.norm(x_TD), layout, rotation)
        output_TD: Tensor = h_TD + self.feed_forward(self.feed_forward_norm(h_TD))
        return output_TD


def build_block(config: ModelConfig, spec: LayerSpec, core: AttentionCore) -> nn.Module:
    """The block named in the configuration."""
    kinds = {"parallel": ParallelBlock, "sequential": SequentialBlock}
    return kinds[config.block](config, spec, core)
