"""An evaluation with another scaling has the losses of the model whose rotation was changed by hand."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.at_step import AtStep
from model.attention.core import choose_core
from model.layer_pattern import KindConfig
from model.packed_layout import PackedLayout
from model.position.dynamic_ntk import DynamicNtkRope
from model.transformer import Transformer
from ranks import run_on_ranks
from train.configuration.compose import compose_run
from train.evaluate.command import main
from train.evaluate.options import read_options
from train.evaluate.prepare import prepare
from train.evaluate.subject import open_subject
from train.evaluation.prompt_plan import prompt_plans
from train.job import run_job

LENGTH = 160
SCALING = "{scaling: dynamic_ntk, factor: 4.0, original_length: 48}"
CHANGES = {
    "train.max_steps": "1",
    "model.layer_pattern": "[window_rope,full_rope]",
    "model.num_layers": "2",
    "model.init_std": "0.3",
    "evaluation.enabled": "false",
    "preflight.enabled": "false",
}
OPTIONS = ["--task", "passkey", "--lengths", str(LENGTH), "--depths", "1", "--samples", "2"]


@pytest.fixture(scope="module")
def run(small_run: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("outputs")
    config = compose_run(small_run(outputs, **CHANGES))
    assert set(run_on_ranks(lambda *_: run_job(config), 1)) == {0}
    return outputs / "small"


def by_hand(run: Path, *, changed: bool) -> float:
    """The mean loss of the answers: a float64 forward for each prompt, alone."""
    subject = open_subject("checkpoint", run, "small")
    given = [*OPTIONS, "--checkpoint", str(run), "--beyond"]
    prepared = prepare(subject, read_options(given), 1)
    model = prepared.config.model
    if changed:
        rope = DynamicNtkRope(factor=4.0, original_length=48)
        model = replace(model, kinds={"full_rope": KindConfig(rope=rope)})
    built = Transformer(model, choose_core("dense", torch.device("cpu"), torch.float64)).double()
    weights: dict[str, Any] = {}
    for path in subject.folder.glob("*.safetensors"):
        weights |= load_file(path)
    named = {k.removeprefix("weight/"): v for k, v in weights.items() if k.startswith("weight/")}
    built.load_state_dict({name: tensor.double() for name, tensor in named.items()})
    at = replace(
        AtStep.of(model, next(iter(subject.state.rope_base.values())), (64,)), asked_length=LENGTH
    )
    (plan,) = prompt_plans(prepared.config, prepared.text).values()
    losses = []
    for request in plan.requests(LENGTH):
        prompt = plan.maker.prompt(request, LENGTH)
        ids = torch.from_numpy(prompt.ids)
        with torch.no_grad():
            logits = built.logits(built(ids, PackedLayout.from_lengths([LENGTH]), at))
        part = slice(prompt.answer - 1, LENGTH - 1)
        answer = ids[prompt.answer :]
        losses.append(torch.nn.functional.cross_entropy(logits[part], answer).item())
    return sum(losses) / len(losses)


@pytest.mark.slow
def test_another_scaling_is_that_of_a_model_changed_by_hand(run: Path, tmp_path: Path) -> None:
    found = {}
    for changed in (False, True):
        output = tmp_path / str(changed)
        given = [*OPTIONS, "--checkpoint", str(run), "--beyond", "--output", str(output)]
        if changed:
            given.append(f"model.kinds={{full_rope: {{rope: {SCALING}}}}}")
        assert set(run_on_ranks(lambda *_, given=given: main(given), 1)) == {0}
        (path,) = output.glob("*/evaluation.jsonl")
        found[changed] = json.loads(path.read_text())["loss"]
        assert found[changed] == pytest.approx(by_hand(run, changed=changed), rel=1e-5)
    assert found[True] != pytest.approx(found[False], rel=1e-4)
