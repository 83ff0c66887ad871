"""The same model in Hugging Face's words: a `Cohere2ForCausalLM` with our shape and our weights, for benchmarks.

Which key and which tensor of theirs is which of ours is said in `model/huggingface/families/cohere2.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cohere2Config, Cohere2ForCausalLM
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from data.batch import IGNORE
from model.config import ModelConfig
from model.huggingface.families.cohere2 import COHERE2
from model.packed_layout import PackedLayout
from model.transformer import Transformer

# What a Cohere2 says of itself; no mask or rotation follows from it.
_CONTEXT_LENGTH = 8192


def hf_model(
    config: ModelConfig, dtype: torch.dtype, attention: str, *, rope_base: float = 1e4
) -> Cohere2ForCausalLM:
    """A Cohere2 of this shape on the CPU, freshly initialised; its attention as transformers names it.

    Raises ValueError when Cohere2 has no such model.
    """
    theirs = Cohere2Config(
        **COHERE2.write(config, rope_base, _CONTEXT_LENGTH),
        use_cache=False,
        # The embedding of a padding token would get no gradient.
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        dtype=dtype,
        attn_implementation=attention,
    )
    return Cohere2ForCausalLM._from_config(theirs)


@torch.no_grad()
def copy_weights(ours: Transformer, theirs: Cohere2ForCausalLM) -> None:
    """Put our parameters into their model, cast to its dtype; every one of theirs gets one of ours."""
    named, parameters = dict(ours.named_parameters()), dict(theirs.named_parameters())
    for name, their_name in their_names(ours).items():
        parameters.pop(their_name).copy_(named[name])
    assert not parameters, f"not filled: {sorted(parameters)}"


def their_names(ours: Transformer) -> dict[str, str]:
    """What a `Cohere2ForCausalLM` calls each of our parameters: the same numbers under another name."""
    links = COHERE2.links(ours.config, [name for name, _ in ours.named_parameters()])
    return {name: their_name for link in links for name, their_name in [(*link.ours, *link.theirs)]}


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
