"""Every family against transformers: the same logits, the same tensors and configuration on the way back.

Models are random and small, and made hard: heads are wider than width / heads, 6 query heads share 2, the vocabulary
is odd, norms and biases are far from their initial values, and texts end before, at and long after the window.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.attention_core import choose_core
from model.huggingface.catalogue import family_of
from model.packed_layout import PackedLayout
from model.transformer import Transformer
from parallel.tensor_files import map_tensors
from tests.unit.huggingface_cases import CASES, LENGTHS, SIZES, their_model
from train.checkpoint import read_index, read_state
from train.export_huggingface import export_model
from train.huggingface_config import scheduled_base
from train.import_huggingface import import_model
from train.typed_model import typed_model


def our_model(checkpoint: Path, **changes: Any) -> tuple[Transformer, float]:
    """The model of a checkpoint and its base."""
    state, index = read_state(checkpoint), read_index(checkpoint)
    config = dataclasses.replace(typed_model(state.model), **changes)
    model = Transformer(config, choose_core("auto", "cpu", torch.float32))
    weights = {}
    for key, record in index["tensors"].items():
        found = map_tensors(checkpoint / record["file"], {key: torch.Size(record["shape"])})
        weights[key.removeprefix("weight/")] = found[key]
    model.load_state_dict(weights)
    return model, scheduled_base(config, state.rope_base)


@torch.no_grad()
def our_logits(model: Transformer, base: float, texts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Of all texts in one packed stream."""
    layout = PackedLayout.from_lengths([len(text) for text in texts])
    logits = model.logits(model(torch.cat(texts), layout, base))
    return list(logits.split([len(text) for text in texts]))


def texts(seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 101, (length,), generator=generator) for length in LENGTHS]


@torch.no_grad()
def their_logits(model: Any, text: torch.Tensor) -> torch.Tensor:
    return model(text[None]).logits[0]


def largest_difference(model: Transformer, base: float, theirs: Any) -> float:
    found = zip(texts(), our_logits(model, base, texts()), strict=True)
    return max(float((ours - their_logits(theirs, text)).abs().max()) for text, ours in found)


@pytest.mark.parametrize("case", CASES)
def test_logits_agree_and_the_way_back_changes_nothing(case: str, tmp_path: Path) -> None:
    kind, settings = CASES[case]
    theirs = their_model(kind, settings)
    theirs.save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "ours")
    model, base = our_model(tmp_path / "ours")
    assert float(their_logits(theirs, texts()[-1]).std()) >= 1.0
    # float32 logits of a size of a few, sums in another order.
    assert largest_difference(model, base, theirs) < 1e-5

    export_model(tmp_path / "ours", tmp_path / "back", tokenizer="none")
    was, now = (load_file(tmp_path / f / "model.safetensors") for f in ("theirs", "back"))
    assert was.keys() == now.keys()
    for name, tensor in was.items():
        assert torch.equal(tensor, now[name]), name
    was, now = (json.loads((tmp_path / f / "config.json").read_text()) for f in ("theirs", "back"))
    assert was == now

    # Written anew, from our fields alone, it is the same model too.
    from transformers import AutoConfig, AutoModelForCausalLM

    family = family_of(was)
    context = SIZES["max_position_embeddings"]
    written = family.write(model.config, base, context)
    assert family.read(written) == family.read(was)
    again = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**(written | {"pad_token_id": None})), attn_implementation="eager"
    )
    again.load_state_dict(theirs.state_dict())
    text = texts()[-1]
    torch.testing.assert_close(
        their_logits(again.eval(), text), their_logits(theirs, text), atol=1e-6, rtol=0
    )
