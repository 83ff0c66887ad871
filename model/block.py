"""The two residual blocks, built from one `LayerSpec` each.

    parallel (Cohere)    n = norm(x)    y = x + attention(n) + feed_forward(n)

    sequential (Llama)   h = x + attention(norm(x))    y = h + feed_forward(feed_forward_norm(h))

What attention and feed-forward read passes `enter`, what they give passes `leave`: nothing on one device.
Tensor parallelism, which keeps the residual stream cut by tokens, gathers tokens in the one and adds up
and cuts in the other.

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
        self.enter: nn.Module = nn.Identity()
        self.leave: nn.Module = nn.Identity()

    def forward(self, x_TD: Tensor, layout: PackedLayout, rotation: Rotation) -> Tensor:
        """(T, D) to (T, D)."""
        n_TD = self.enter(self.norm(x_TD))
        output_TD: Tensor = x_TD + self.leave(
            self.attention(n_TD, layout, rotation) + self.feed_forward(n_TD)
        )
        return output_TD


class SequentialBlock(nn.Module):
    """The feed-forward reads what attention wrote."""

    def __init__(self, config: ModelConfig, spec: LayerSpec, core: AttentionCore) -> None:
        super().__init__()
        self.norm = build_norm(config.norm, config.hidden_size, config.norm_eps)
        self.attention = Attention(config, spec, core)
        self.feed_forward_norm = build_norm(config.norm, config.hidden_size, config.norm_eps)
        self.feed_forward = FeedForward(config.hidden_size, config.intermediate_size)
        self.enter: nn.Module = nn.Identity()
        self.leave: nn.Module = nn.Identity()

    def forward(self, x_TD: Tensor, layout: PackedLayout, rotation: Rotation) -> Tensor:
        """(T, D) to (T, D)."""
        n_TD = self.enter(self.norm(x_TD))
        h_TD = x_TD + self.leave(self.attention(n_TD, layout, rotation))
        m_TD = self.enter(self.feed_forward_norm(h_TD))
        output_TD: Tensor = h_TD + self.leave(self.feed_forward(m_TD))
        return output_TD


def build_block(config: ModelConfig, spec: LayerSpec, core: AttentionCore) -> nn.Module:
    """The block named in the configuration."""
    kinds = {"parallel": ParallelBlock, "sequential": SequentialBlock}
    return kinds[config.block](config, spec, core)
