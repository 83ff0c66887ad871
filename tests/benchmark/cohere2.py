"""The same model in Hugging Face's words: a `Cohere2ForCausalLM` with our shape and our weights.

For benchmarks only, and for the test that keeps them honest. Names map one to one and so do the numbers: both
sides turn interleaved pairs, share one LayerNorm a block between attention and feed-forward, tie the head to
the embedding and rotate the windowed layers alone.

    ours      layers.N.  attention.q_proj   feed_forward.up_proj   norm                norm    embedding
    theirs    layers.N.  self_attn.q_proj   mlp.up_proj            input_layernorm     norm    embed_tokens
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cohere2Config, Cohere2ForCausalLM
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from data.batch import IGNORE
from model.config import ModelConfig
from model.layer_pattern import expand_pattern
from model.packed_layout import PackedLayout
from model.transformer import Transformer

_RENAMED = (
    (".attention.", ".self_attn."),
    (".feed_forward.", ".mlp."),
    (".norm.", ".input_layernorm."),
    ("embedding.", "embed_tokens."),
)


def hf_model(
    config: ModelConfig, dtype: torch.dtype, attention: str, *, rope_base: float = 1e4
) -> Cohere2ForCausalLM:
    """A Cohere2 of this shape on the CPU, freshly initialised; its attention as transformers names it.

    Raises ValueError when Cohere2 has no such model.
    """
    layer_types = [_layer_type(config, spec.window, spec.rotary) for spec in expand_pattern(config)]
    for name, only in (("block", "parallel"), ("norm", "layernorm"), ("qk_norm", False)):
        if getattr(config, name) != only:
            raise ValueError(
                f"model.{name}={getattr(config, name)}: Cohere2 has {name}={only} only"
            )
    if not config.tie_embeddings or config.num_heads * config.head_dim != config.hidden_size:
        raise ValueError("Cohere2 ties its embeddings, and its heads are as wide as its stream")
    theirs = Cohere2Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        logit_scale=config.logit_scale,
        layer_norm_eps=config.norm_eps,
        sliding_window=config.window,
        layer_types=layer_types,
        rope_parameters={"rope_type": "default", "rope_theta": rope_base},
        use_cache=False,
        # The embedding of a padding token would get no gradient.
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        dtype=dtype,
        attn_implementation=attention,
    )
    return Cohere2ForCausalLM._from_config(theirs)


def _layer_type(config: ModelConfig, window: int | None, rotary: bool) -> str:
    if rotary != (window is not None):
        raise ValueError(
            f"model.layer_pattern={config.layer_pattern}: Cohere2 rotates windowed layers and no others"
        )
    return "full_attention" if window is None else "sliding_attention"


@torch.no_grad()
def copy_weights(ours: Transformer, theirs: Cohere2ForCausalLM) -> None:
    """Put our parameters into their model, cast to its dtype; every one of theirs gets one of ours."""
    parameters = dict(theirs.model.named_parameters())
    for name, parameter in ours.named_parameters():
        parameters.pop(their_name(name)).copy_(parameter)
    assert not parameters, f"not filled: {sorted(parameters)}"


def their_name(name: str) -> str:
    """What `Cohere2Model` calls our parameter `name`."""
    for word, theirs in _RENAMED:
        name = name.replace(word, theirs)
    return name


def hf_inputs(
    theirs: Cohere2ForCausalLM, tokens_T: Tensor, lengths: Sequence[int]
) -> dict[str, Any]:
    """Their forward's arguments for documents laid end to end; each document's first token is no target.

    Masks are theirs, from the positions that restart at every document as they find packed documents, but made
    here, once, and already in the form that their kernels add: less work than they do in every step.
    """
    positions_T = torch.cat([torch.arange(length) for length in lengths])
    labels_T = tokens_T.masked_fill(positions_T == 0, IGNORE)
    facts = {
        "config": theirs.config,
        "inputs_embeds": theirs.model.embed_tokens.weight[:1].expand(1, len(tokens_T), -1),
        "attention_mask": None,
        "past_key_values": None,
        "position_ids": positions_T[None],
    }
    masks = {
        "full_attention": create_causal_mask(**facts),
        "sliding_attention": create_sliding_window_causal_mask(**facts),
    }
    return {
        "input_ids": tokens_T[None],
        "labels": labels_T[None],
        "position_ids": positions_T[None],
        "attention_mask": {name: _additive(mask, theirs.dtype) for name, mask in masks.items()},
    }


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, float("-inf"))


def targets(tokens_T: Tensor, layout: PackedLayout) -> Tensor:
    """Our side's labels (T,): the next token of the same document, none for a document's last."""
    targets_T = tokens_T.roll(-1)
    targets_T[layout.cu_seqlens[1:].long() - 1] = IGNORE
    return targets_T
