"""The model of the benchmarks' other side is ours: Hugging Face's Cohere2 with our weights gives our loss."""

import pytest
import torch

from model.attention.core import choose_core
from model.config import ModelConfig
from model.initialization import initialize
from model.logits import IGNORE
from model.packed_layout import PackedLayout
from model.transformer import Transformer
from tests.benchmark.cohere2 import copy_weights, hf_inputs, hf_model, targets, their_names

CONFIG = ModelConfig(
    num_layers=4,
    hidden_size=32,
    intermediate_size=48,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,  # heads wider than the stream, which Cohere2 can have too
    vocab_size=64,
    window=5,
    logit_scale=0.25,
    init_std=0.3,
)


@pytest.mark.parametrize("lengths", [[40], [17, 1, 22]], ids=["one document", "packed"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_cohere2_with_our_weights_has_our_loss_and_gradients(attention, lengths):
    """Against a model that others wrote: every weight is used in the same place, in float64."""
    ours = Transformer(CONFIG, choose_core("dense", "cpu", torch.float64)).double()
    initialize(ours, CONFIG, seed=0)
    theirs = hf_model(CONFIG, torch.float64, attention, rope_base=500.0)
    copy_weights(ours, theirs)
    tokens_T = torch.randint(0, 64, (40,), generator=torch.Generator().manual_seed(1))
    layout = PackedLayout.from_lengths(lengths)
    targets_T = targets(tokens_T, layout)
    sums = ours.loss(ours(tokens_T, layout, 500.0), targets_T)
    loss = sums.total / (targets_T != IGNORE).sum()
    expected = theirs(**hf_inputs(theirs, tokens_T, lengths)).loss
    # Their norms, rotation and loss are float32.
    torch.testing.assert_close(loss, expected.double(), atol=1e-5, rtol=0)
    loss.backward()
    expected.backward()
    names = their_names(ours)
    for name, parameter in ours.named_parameters():
        gradient = theirs.get_parameter(names[name]).grad
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "field, value",
    [
        ("block", "sequential"),
        ("norm", "rmsnorm"),
        ("layer_pattern", ["full_rope"]),
    ],
)
def test_what_cohere2_cannot_be_is_refused(field, value):
    with pytest.raises(ValueError, match="cohere2 has"):
        hf_model(ModelConfig(**{**CONFIG.__dict__, field: value}), torch.float32, "sdpa")
