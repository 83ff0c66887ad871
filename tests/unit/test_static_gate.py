"""Static gates: their formula and its gradient; folded into `o_proj` by an export, and back by an import."""

import dataclasses
from pathlib import Path

import pytest
import torch

from data.files import seal
from model.attention.static_gate import StaticGate, folded, scaled
from model.initialization import initialize_parameter
from model.parameters import parameter_names, role_of, shape_of
from parallel.checkpoint.index import Index
from parallel.checkpoint.tensor_files import write_tensors
from parallel.engine.optimizers import has_decay
from tests.unit.huggingface_cases import CASES, their_model
from tests.unit.test_huggingface_families import largest_difference, our_logits, our_model, texts
from train.checkpointing.state import FORMAT, INDEX, STATE, read_index, read_state
from train.configuration.typed_model import typed_model
from train.huggingface.export_model import ExportOptions, export_model
from train.huggingface.import_model import import_model


def test_gate_and_gradients_are_those_of_the_formula_written_out() -> None:
    gate = StaticGate(32, 2).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in gate.parameters():
        parameter.data.normal_(generator=generator)
    o_TD = torch.randn(5, 64, dtype=torch.float64, generator=generator)
    weight_TD = torch.randn(5, 64, dtype=torch.float64, generator=generator)
    (scaled(o_TD, gate()) * weight_TD).sum().backward()

    c, reduce, expand = (p.detach() for p in gate.parameters())
    h = reduce @ c
    g = 1 / (1 + torch.exp(-expand @ h.clamp(min=0)))
    dg = (o_TD * weight_TD).view(5, 32, 2).sum(dim=(0, 2)) * g * (1 - g)
    dh = (expand.T @ dg) * (h > 0)
    assert (h > 0).any()
    torch.testing.assert_close(gate(), g, atol=1e-14, rtol=0)
    expected = (reduce.T @ dh, torch.outer(dh, c), torch.outer(dg, h.clamp(min=0)))
    for parameter, wanted in zip(gate.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, atol=1e-12, rtol=0)


def test_initial_values_let_every_row_train_and_the_constant_does_not_decay() -> None:
    config = dataclasses.replace(typed_model({}), static_gate="head")
    values = {}
    for name in ("constant", "reduce", "expand"):
        full = f"layers.0.attention.head_static_gate.{name}.weight"
        values[name] = torch.empty(shape_of(full, config))
        initialize_parameter(full, values[name], config, 0)
        assert has_decay(full) == (name != "constant")
        assert not role_of(full).multiplies_tokens
    assert bool((values["constant"] == 0.1).all())
    assert bool((values["reduce"] >= 0).all())
    assert bool((values["expand"] < 0).any())


def add_gates(checkpoint: Path, over: str) -> None:
    """Gives every layer of an imported checkpoint a static gate, far from constant."""
    state, index = read_state(checkpoint), read_index(checkpoint)
    state.model["static_gate"] = over
    config = typed_model(state.model)
    generator = torch.Generator().manual_seed(3)
    added = {
        f"weight/{name}": torch.randn(shape_of(name, config), generator=generator)
        for name in parameter_names(config, range(config.num_layers))
        if "static_gate" in name
    }
    record = write_tensors(checkpoint / "gates.safetensors", added)
    tensors = {
        key: {"file": "gates.safetensors", "shape": list(tensor.shape), "dtype": "float32"}
        for key, tensor in added.items()
    }
    joined: Index = {
        "files": index["files"] | {"gates.safetensors": record},
        "tensors": index["tensors"] | tensors,  # type: ignore[dict-item,operator]
    }
    (checkpoint / INDEX).write_bytes(seal({"format": FORMAT, **joined}))
    (checkpoint / STATE).write_bytes(seal({"format": FORMAT, **dataclasses.asdict(state)}))


@pytest.mark.parametrize(("case", "over"), [("cohere2", "head"), ("qwen3", "channel")])
def test_an_export_folds_the_gates_and_an_import_has_the_plain_model(
    case: str, over: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    their_model(*CASES[case]).save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "ours")
    plain, _ = our_model(tmp_path / "ours")
    add_gates(tmp_path / "ours", over)
    unfolded, base = our_model(tmp_path / "ours")
    _, notes = export_model(tmp_path / "ours", tmp_path / "out", ExportOptions(tokenizer="none"))
    assert any("folded into o_proj" in note for note in notes)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    import_model(tmp_path / "out", tmp_path / "back")
    back, _ = our_model(tmp_path / "back")

    assert largest_difference(unfolded, base, theirs.eval()) < 1e-5
    found = (our_logits(model, base, texts()) for model in (unfolded, back, plain))
    for gated, folded_logits, ungated in zip(*found, strict=True):
        torch.testing.assert_close(gated, folded_logits, atol=1e-5, rtol=0)
        assert float((gated - ungated).abs().max()) > 0.1, "the gates matter"
    assert {n: p.shape for n, p in back.named_parameters()} == {
        n: p.shape for n, p in plain.named_parameters()
    }


def test_folding_scales_the_columns_of_each_head() -> None:
    weight, gates = torch.ones(1, 4), torch.eye(2)
    found = folded(weight, torch.ones(2), gates, torch.diag(torch.tensor([0.0, 100.0])))
    assert found.tolist() == [[0.5, 0.5, 1.0, 1.0]]
