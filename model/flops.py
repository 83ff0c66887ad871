"""What the model costs, from its configuration and the documents' lengths alone.

Conventions, the field's usual ones:

- One multiply-add is two operations. A backward costs twice its forward, so training is three
  forwards. Recomputed forwards are not counted: these are the operations the model needs, not those
  a machine spends.
- Every weight that multiplies each token counts 2 per token and forward (hence 6 N T in training).
  The embedding lookup is free; the output head is a product over the whole vocabulary. So a tied
  embedding counts once, AS THE HEAD, and an untied input embedding not at all. Norm weights, biases,
  rotation and softmax are left out (under 0.1 %).
- Attention counts 4 * num_heads * head_dim per visible pair of query and key and forward (12 in
  training): only pairs that the window and the document borders let through, half of a square for a
  causal full layer, not the whole.
- Every token given is counted. For useful work pass the real documents; with the padding documents
  too, the machine's.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from model.config import ModelConfig
from model.layer_pattern import expand_pattern

_FORWARDS_PER_TRAINING_STEP = 3


@dataclass(frozen=True)
class FlopCount:
    """Floating point operations, those of weights and those of attention scores apart."""

    dense: int
    attention: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.dense + self.attention

    @property
    def attention_share(self) -> float:
        """The part of the total that grows with the square of the length (0 to 1)."""
        return self.attention / self.total


def parameter_count(config: ModelConfig) -> int:
    """Every parameter of the whole model, a tied weight once."""
    embeddings = 1 if config.tie_embeddings else 2
    vectors = layer_vectors(
        config,
        heads=config.num_heads,
        key_heads=config.num_kv_heads,
        width=config.intermediate_size,
    )
    return (
        embeddings * config.vocab_size * config.hidden_size
        + config.num_layers * (_layer_matmul_parameters(config) + vectors)
        + config.hidden_size
    )


def layer_vectors(config: ModelConfig, *, heads: int, key_heads: int, width: int) -> int:
    """Norm weights, biases and sinks of one layer, or of a part of it.

    heads, key_heads, width: query heads, key/value heads and feed-forward width of that part.
    """
    query_width, key_width = heads * config.head_dim, key_heads * config.head_dim
    vectors = norms_of_layer(config) * config.hidden_size
    if config.qk_norm:
        whole = config.qk_norm_over == "projection"
        vectors += query_width + key_width if whole else 2 * config.head_dim
    if config.qkv_bias:
        vectors += query_width + 2 * key_width
    if config.output_bias:
        vectors += config.hidden_size
    if config.feed_forward_bias:
        vectors += 2 * width + config.hidden_size
    return vectors + (heads if config.sinks else 0)


def norms_of_layer(config: ModelConfig) -> int:
    """Norms over the residual stream's width in one layer."""
    if config.block == "parallel":
        return 1
    return 4 if config.norm_at == "both" else 2


def matmul_parameters(config: ModelConfig) -> int:
    """The weights every token is multiplied with: linear layers and the output head."""
    head = config.vocab_size * config.hidden_size
    return config.num_layers * _layer_matmul_parameters(config) + head


def score_pairs(lengths: Sequence[int], window: int | None) -> int:
    """Visible (query, key) pairs of one layer over documents of these lengths, exactly.

    A document of n tokens has n (n + 1) / 2; with a window W < n it has W (W + 1) / 2 + (n - W) W.
    """
    pairs = 0
    for length in lengths:
        reach = length if window is None else min(length, window)
        pairs += reach * (reach + 1) // 2 + (length - reach) * reach
    return pairs


def total_score_pairs(config: ModelConfig, lengths: Sequence[int]) -> int:
    """Visible pairs summed over all layers, each with its own window."""
    layers_of_window = Counter(spec.window for spec in expand_pattern(config))
    return sum(count * score_pairs(lengths, w) for w, count in layers_of_window.items())


def count_forward(config: ModelConfig, lengths: Sequence[int]) -> FlopCount:
    """Operations of one forward, loss head included, over documents of these lengths."""
    return FlopCount(
        dense=2 * matmul_parameters(config) * sum(lengths),
        attention=4 * config.num_heads * config.head_dim * total_score_pairs(config, lengths),
    )


def forward_flops(config: ModelConfig, lengths: Sequence[int]) -> int:
    """Operations of one forward, as in evaluation."""
    return count_forward(config, lengths).total


def training_flops(config: ModelConfig, lengths: Sequence[int]) -> int:
    """Operations of one forward and backward over documents of these lengths."""
    return _FORWARDS_PER_TRAINING_STEP * forward_flops(config, lengths)


def _layer_matmul_parameters(config: ModelConfig) -> int:
    query_width = config.num_heads * config.head_dim
    key_width = config.num_kv_heads * config.head_dim
    attention = 2 * config.hidden_size * (query_width + key_width)
    return attention + 3 * config.hidden_size * config.intermediate_size
