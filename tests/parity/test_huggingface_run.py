"""A model trained here on many ranks, in transformers; and back, to be trained on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from data.evaluation import evaluation_batches
from data.sources import open_source
from parallel.testing import run_on_ranks
from tests.conftest import SmallCorpus
from train.compose import compose_run
from train.export_huggingface import main as export
from train.import_huggingface import main as import_
from train.job import run_job

Arguments = Callable[..., list[str]]
WINDOW = 16
# Three steps and three, and no look at links.
SHORT = {
    "schedule.stages.first.tokens": "1536",
    "schedule.stages.second.tokens": "1536",
    "preflight.enabled": "false",
}


def job(arguments: list[str], ranks: int) -> None:
    assert run_on_ranks(lambda *_: run_job(compose_run(arguments)), ranks) == [0] * ranks


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@torch.no_grad()
def scored_by_transformers(model: Any, heldout: str, length: int) -> tuple[float, int]:
    """Mean loss over the held-out tokens, every document by itself."""
    total, tokens = 0.0, 0
    streams = evaluation_batches(
        open_source("heldout", heldout),
        sequence_length=length,
        micro_batch_tokens=length,
        max_tokens=2048,
        dp_rank=0,
        dp_size=1,
    )
    for stream in streams:
        texts = stream.tokens_T.split(list(stream.lengths))
        for text, targets in zip(texts, stream.targets_T.split(list(stream.lengths)), strict=True):
            logits = model(text[None]).logits[0]
            total += float(F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum"))
            tokens += int((targets != -100).sum())
    return total / tokens, tokens


@pytest.fixture(scope="module")
def trained(small_run: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on tensor 2 x pipeline 2 x sequence 2."""
    outputs = tmp_path_factory.mktemp("trained")
    layout = {f"parallel.{axis}": "2" for axis in ("tensor", "pipeline", "sequence")}
    job(small_run(outputs, **layout, **SHORT), 8)
    return outputs / "small"


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    checkpoint = trained / "checkpoints" / (trained / "checkpoints/latest").read_text().strip()
    arguments = ["--checkpoint", str(checkpoint), "--output", str(folder)]
    assert export([*arguments, "--shard-bytes", "100000"]) == 0
    assert export(arguments) == 2, "what is there is not overwritten"
    return folder


@pytest.fixture(scope="module")
def theirs(exported: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(exported, attn_implementation="eager").eval()


def test_transformers_gives_the_loss_of_our_own_evaluation(
    theirs: Any, trained: Path, small_corpus: SmallCorpus
) -> None:
    assert type(theirs).__name__ == "Cohere2ForCausalLM"
    last = rows(trained, "evaluation.jsonl")[-1]
    loss, tokens = scored_by_transformers(theirs, small_corpus.heldout, last["sequence_length"])
    assert tokens == last["tokens"]
    assert loss == pytest.approx(last["loss"], rel=1e-5)


def test_generation_with_a_cache_past_the_window_is_generation_without(theirs: Any) -> None:
    prompt = torch.arange(5, 15)[None]
    options = {"max_new_tokens": 3 * WINDOW, "do_sample": False, "eos_token_id": None}
    cached, plain = (theirs.generate(prompt, use_cache=use, **options) for use in (True, False))
    assert cached.shape == (1, 10 + 3 * WINDOW)
    assert torch.equal(cached, plain)


def test_the_folder_is_complete(exported: Path, small_corpus: SmallCorpus) -> None:
    from transformers import AutoTokenizer

    from data.tokenizer import Tokenizer

    names = {path.name for path in exported.iterdir()}
    assert names >= {"config.json", "generation_config.json", "tokenizer.json", "README.md"}
    assert "model.safetensors.index.json" in names
    text = "abc  def\n\n</s> \u2581 gh"
    ids = AutoTokenizer.from_pretrained(exported)(text)["input_ids"]
    assert ids == Tokenizer(small_corpus.tokenizer).encode(text).tolist()
    card = (exported / "README.md").read_text()
    assert "| optimizer steps | 6 |" in card
    assert "tensor 2, pipeline 2, sequence 2" in card


def test_it_is_trained_on_from_any_layout(
    exported: Path, trained: Path, small_run: Arguments, tmp_path: Path
) -> None:
    imported = tmp_path / "imported"
    assert import_(["--model", str(exported), "--output", str(imported)]) == 0
    losses = []
    for name, ranks, layout in (
        ("alone", 1, {}),
        ("cut", 2, {"parallel.tensor": "2", "parallel.zero_stage": "3"}),
    ):
        changes = {
            "run_name": name,
            "model": "from_huggingface",
            "checkpoint.resume": str(imported),
            "schedule.stages.first.rope_base": "keep",
            "train.max_steps": "2",
            "evaluation.enabled": "false",
        }
        job(small_run(tmp_path, **changes, **layout, **SHORT), ranks)
        losses.append([row["loss"] for row in rows(tmp_path / name, "metrics.jsonl")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    # It goes on from what was learned: a new model's first loss is ln 320 = 5.8.
    assert losses[0][0] < rows(trained, "metrics.jsonl")[-1]["loss"] + 0.3
