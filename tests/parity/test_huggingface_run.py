"""A model trained here on many ranks, in transformers; and back, to be trained on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from data.batch import RankReader
from data.held_out import evaluation_batches
from data.prepare.job import PrepareOptions, prepare
from data.sources import open_source
from ranks import run_on_ranks
from tests.conftest import SmallCorpus
from tests.unit.huggingface_cases import CASES, their_model
from train.checkpointing.state import read_state
from train.configuration import validate
from train.configuration.compose import compose_run
from train.huggingface.export_model import main as export
from train.huggingface.import_model import main as import_
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
    config = compose_run(arguments)
    assert validate.problems(config, ranks) == []
    assert run_on_ranks(lambda *_: run_job(config), ranks) == [0] * ranks


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@torch.no_grad()
def scored_by_transformers(model: Any, heldout: str, length: int) -> tuple[float, int]:
    """Mean loss over the held-out tokens, every document by itself."""
    total, tokens = 0.0, 0
    source = open_source("heldout", heldout)
    streams = evaluation_batches(
        source,
        RankReader([source], source.eos_id),
        sequence_length=length,
        micro_batch_tokens=length,
        max_tokens=2048,
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

    from data.tokenizer.sentencepiece_model import Tokenizer

    names = {path.name for path in exported.iterdir()}
    assert names >= {"config.json", "generation_config.json", "tokenizer.json", "README.md"}
    assert "model.safetensors.index.json" in names
    text = "abc  def\n\n</s> \u2581 gh"
    ids = AutoTokenizer.from_pretrained(exported)(text)["input_ids"]
    assert ids == Tokenizer(small_corpus.tokenizer).encode(text).tolist()
    card = (exported / "README.md").read_text()
    assert "| optimizer steps | 6 |" in card
    assert "tensor 2, pipeline 2, sequence 2" in card


@pytest.fixture(scope="module")
def imported(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints made of the exported model, and of two of transformers' own."""
    folder = tmp_path_factory.mktemp("imported")
    sources = {"cohere2": exported}
    for name in ("llama 3.1", "gpt-oss"):
        kind, settings = CASES[name]
        sources[kind] = folder / f"{kind} of transformers"
        their_model(kind, {**settings, "vocab_size": 320}).save_pretrained(sources[kind])
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(exported / file, sources["llama"] / file)
    (sources["llama"] / "LICENSE").write_text("as its authors say")
    for kind, source in sources.items():
        assert import_(["--model", str(source), "--output", str(folder / kind)]) == 0
    return {kind: folder / kind for kind in sources}


def goes_on(
    outputs: Path, corpus: SmallCorpus, checkpoint: Path, ranks: int, **changes: str
) -> list[dict[str, Any]]:
    """Rows of three steps from an imported checkpoint."""
    values = {
        "run_name": f"on {ranks}",
        "paths.outputs": str(outputs),
        "model": "from_huggingface",
        "checkpoint.resume": str(checkpoint),
        "data": "files",
        "data.sources.all.prefix": corpus.train,
        "data.look_ahead": "8",
        "logging.wandb.mode": "disabled",
        "evaluation.enabled": "false",
        "preflight.enabled": "false",
        "train.precision": "float32",
        "train.max_steps": "3",
        "optimizer.epsilon": "1e-4",
    } | changes
    job([f"{key}={value}" for key, value in values.items()], ranks)
    return rows(outputs / f"on {ranks}", "metrics.jsonl")


def test_it_is_trained_on_the_same_on_any_layout(
    imported: dict[str, Path], small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    # Biases, sinks and YaRN, cut and sharded.
    kept = {"schedule": "small", "schedule.stages.first.rope_base": "keep"}
    alone = goes_on(tmp_path, small_corpus, imported["gpt_oss"], 1, **kept)
    layout = {"parallel.tensor": "2", "parallel.zero_stage": "3"}
    cut = goes_on(tmp_path, small_corpus, imported["gpt_oss"], 2, **kept, **layout)
    for key in ("loss", "gradient_norm"):
        assert [row[key] for row in alone] == pytest.approx([row[key] for row in cut], rel=1e-5)


@pytest.mark.parametrize(("kind", "name"), [("llama", "raised"), ("cohere2", "kept")])
def test_an_imported_model_is_extended_by_its_recipe(
    kind: str,
    name: str,
    imported: dict[str, Path],
    small_corpus: SmallCorpus,
    trained: Path,
    tmp_path: Path,
) -> None:
    stages = ("extend_32k", "extend_64k" if name == "raised" else "extend_128k")
    small = {"tokens": "1024", "batch_tokens": "512", "micro_batch_tokens": "256"}
    if (
        kind == "llama"
    ):  # as docs/huggingface.md has it: the corpus is made with the model's own tokenizer
        texts = sorted(map(str, Path(small_corpus.tokenizer).parent.glob("*.txt")))
        tokenizer = str(imported[kind] / "huggingface/tokenizer.json")
        options = PrepareOptions(
            tuple(texts), str(tmp_path / "texts"), tokenizer, show_progress=False
        )
        prepare(options)
        small_corpus = small_corpus._replace(train=str(tmp_path / "texts"))
    numbers = {f"schedule.stages.{s}.{key}": value for s in stages for key, value in small.items()}
    lengths = {f"schedule.stages.{s}.sequence_length": str(128 << i) for i, s in enumerate(stages)}
    if name == "raised":
        numbers["schedule.stages.extend_32k.rope_base.tokens"] = "1024"
    found = goes_on(
        tmp_path,
        small_corpus,
        imported[kind],
        1,
        experiment=f"extend_{kind}",
        **numbers,
        **lengths,
        **{
            "schedule.learning_rate.warmup_tokens": "0",
            "schedule.learning_rate.decay_tokens": "512",
        },
    )
    if kind == "cohere2":  # from what was learned: a new model's first loss is ln 320 = 5.8
        assert found[0]["loss"] < rows(trained, "metrics.jsonl")[-1]["loss"] + 0.3
    bases = [row["rope_base"] for row in found]
    own = read_state(imported[kind]).rope_base
    assert bases[0] == next(iter(own.values()))
    assert bases[-1] == (8e6 if name == "raised" else bases[0])
    assert [row["sequence_length"] for row in found] == [128, 128, 256]
    newest = sorted((tmp_path / "on 1/checkpoints").glob("step_*"))[-1]
    arguments = ["--checkpoint", str(newest), "--output", str(tmp_path / "longer")]
    assert export(arguments) == 0
    for file in ("tokenizer.json", *(["LICENSE"] if kind == "llama" else [])):
        written = (tmp_path / "longer" / file).read_bytes()
        assert written == (imported[kind] / "huggingface" / file).read_bytes(), file
    tokens = json.loads((tmp_path / "longer/tokenizer_config.json").read_text())
    assert tokens["model_max_length"] == 256
    config = json.loads((tmp_path / "longer/config.json").read_text())
    assert config["model_type"] == kind
    assert config["rope_parameters"]["rope_theta"] == config["rope_theta"] == bases[-1]
    assert config["max_position_embeddings"] == 256
