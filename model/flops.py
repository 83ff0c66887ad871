"""FLOPs and parameter counts of the model, from its configuration and the documents' lengths alone.

Conventions, as usual in the field:

- One multiply-add is two operations. A backward costs twice its forward, half for the gradient of
  the weight and half for that of the input, so training is three forwards where nothing is frozen.
  Recomputed forwards are not counted: these are model FLOPs, not hardware FLOPs.
- Every weight that multiplies each token (`multiplies_tokens` in the table of parameters) counts 2 per
  token and forward (hence 6 N T in training). The embedding lookup is free; the output head is a product
  over the whole vocabulary. So a tied embedding counts once, AS THE HEAD, and an untied input embedding
  not at all. Norm weights, biases, rotation and softmax are left out (under 0.1 %).
- Attention counts 4 * num_heads * head_dim per visible pair of query and key and forward (12 in
  training): only pairs within the window or chunk and the document. A causal full layer counts half of the
  square, not the whole.
- Every token given is counted. Pass the real documents for useful work; add the padding documents
  for the work of the machine.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from model.config import ModelConfig
from model.layer_pattern import LayerSpec, expand_pattern, layer_kinds
from model.parameters import layer_names, numbers_of, parameter_names, role_of, shape_of
from model.reach import Reach

_FORWARDS_PER_TRAINING_STEP = 3


@dataclass(frozen=True)
class FlopCount:
    """Floating point operations: dense (products with weights) and attention (scores) apart."""

    dense: int
    attention: int

    @property
    def total(self) -> int:
        """The sum of both."""
        return self.dense + self.attention


def parameter_count(config: ModelConfig) -> int:
    """The number of parameters of the whole model; a tied weight counts once."""
    ends = _elements(parameter_names(config, []), config)
    return ends + _over_layers(config, lambda spec: _elements(layer_names(config, spec), config))


def products_per_token(name: str, config: ModelConfig) -> int:
    """Multiply-adds of one token with the parameter called `name` in one forward.

    Raises:
        LookupError: the table of parameters has no such row.
    """
    return math.prod(shape_of(name, config)) if role_of(name).multiplies_tokens else 0


def layer_matmul_parameters(config: ModelConfig, spec: LayerSpec) -> int:
    """The number of weights of one layer of this specification that multiply every token."""
    return _products(layer_names(config, spec), config)


def head_matmul_parameters(config: ModelConfig) -> int:
    """The number of weights of the output head (its own or the tied embedding's) that multiply every token."""
    return _products(parameter_names(config, [], has_embedding=False), config)


def matmul_parameters(config: ModelConfig) -> int:
    """The number of weights of the layers and both ends that multiply every token."""
    embedding = _products(parameter_names(config, [], has_head=False), config)
    layers = _over_layers(config, lambda spec: layer_matmul_parameters(config, spec))
    return embedding + layers + head_matmul_parameters(config)


def _over_layers(config: ModelConfig, count: Callable[[LayerSpec], int]) -> int:
    """The sum of `count` over all layers; each kind is counted once and multiplied by its number of layers."""
    layers = Counter(spec.kind for spec in expand_pattern(config))
    return sum(layers[kind] * count(spec) for kind, spec in layer_kinds(config).items())


def _elements(names: Iterable[str], config: ModelConfig) -> int:
    return sum(math.prod(shape_of(name, config)) for name in names)


def _products(names: Iterable[str], config: ModelConfig) -> int:
    return sum(products_per_token(name, config) for name in names)


def score_pairs(lengths: Sequence[int], reach: Reach) -> int:
    """The exact number of visible (query, key) pairs of one layer over documents of these lengths.

    A document of n tokens has n (n + 1) / 2; with a window W < n it has W (W + 1) / 2 + (n - W) W. A document in
    attention chunks of C tokens has the pairs of n // C documents of C tokens and of one of n % C.
    """
    pairs = 0
    for length in lengths:
        chunk = length if reach.chunk is None else min(length, reach.chunk)
        chunks, rest = divmod(length, chunk) if chunk else (0, 0)
        pairs += chunks * _pairs(chunk, reach.window) + _pairs(rest, reach.window)
    return pairs


def _pairs(length: int, window: int | None) -> int:
    keys = length if window is None else min(length, window)
    return keys * (keys + 1) // 2 + (length - keys) * keys


def total_score_pairs(config: ModelConfig, lengths: Sequence[int], keys_at_most: int = 0) -> int:
    """Visible pairs summed over all layers, each with its own reach. keys_at_most: see `AtStep`."""
    layers_of_reach = Counter(spec.reach.at_most(keys_at_most) for spec in expand_pattern(config))
    return sum(count * score_pairs(lengths, reach) for reach, count in layers_of_reach.items())


def count_forward(config: ModelConfig, lengths: Sequence[int], keys_at_most: int = 0) -> FlopCount:
    """Operations of one forward, loss head included, over documents of these lengths. keys_at_most: see `AtStep`."""
    return FlopCount(
        dense=2 * matmul_parameters(config) * sum(lengths),
        attention=4
        * config.num_heads
        * config.head_dim
        * total_score_pairs(config, lengths, keys_at_most),
    )


def forward_flops(config: ModelConfig, lengths: Sequence[int], keys_at_most: int = 0) -> int:
    """Operations of one forward, as in evaluation. keys_at_most: see `AtStep`."""
    return count_forward(config, lengths, keys_at_most).total


def training_flops(
    config: ModelConfig, lengths: Sequence[int], frozen: Collection[str] = ()
) -> int:
    """Operations of one forward and backward over documents of these lengths.

    frozen: names of parameters that do not train. Their products have no gradient of the weight, and layers below the
    lowest that trains have no backward; a trained embedding needs all of them. Of the lowest, all gradients of inputs
    are counted: autograd makes fewer if its norm is frozen.
    """
    forward = count_forward(config, lengths)
    if not frozen:
        return _FORWARDS_PER_TRAINING_STEP * forward.total
    specs, tokens = expand_pattern(config), sum(lengths)
    names = [layer_names(config, spec, layer) for layer, spec in enumerate(specs)]
    trains = [any(name not in frozen for name in of_layer) for of_layer in names]
    lowest = 0 if "embedding.weight" not in frozen else [*trains, True].index(True)
    backwards = [name for of_layer in names[lowest:] for name in of_layer]
    backwards += parameter_names(config, [], has_embedding=False)
    trained = [name for name in backwards if numbers_of(name, config) not in frozen]
    reaches = Counter(spec.reach for spec in specs[lowest:])
    pairs = sum(count * score_pairs(lengths, reach) for reach, count in reaches.items())
    return (
        forward.total
        + 2 * tokens * (_products(backwards, config) + _products(trained, config))
        + 2 * 4 * config.num_heads * config.head_dim * pairs
    )
