"""The tokenizer of an exported model is that of its corpus, by its SHA-256, or the export is refused."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from data.files import seal
from data.prepare.job import PrepareOptions, prepare
from data.tokenizer.any_tokenizer import open_tokenizer
from data.tokenizer.convert import tokenizer_files
from data.tokenizer.sentencepiece_model import Tokenizer, train
from model.config import ModelConfig
from model.huggingface.catalogue import BY_TYPE
from train.checkpointing.state import FORMAT, RunState, differences, read_state
from train.configuration.compose import compose_run, to_yaml
from train.huggingface.export_model import main as export
from train.huggingface.import_model import main as import_
from train.huggingface.import_model import parameter_shapes
from train.huggingface.kept_files import KEPT, carry_into_run

TEXTS = [
    f"def f{i % 7}(value_{i * i}): return {i * 37:x} {i * 7919:x} {i**5:x}\n" * 3 for i in range(99)
]
MODEL = ModelConfig(
    num_layers=1, hidden_size=16, intermediate_size=16, num_heads=2, num_kv_heads=1, head_dim=8, vocab_size=353,
    layer_pattern=["full_rope"], block="sequential", norm="rmsnorm", tie_embeddings=True,
)  # fmt: skip


def write_tokenizer(folder: Path, vocab_size: int, name: str = "tokenizer.json") -> Tokenizer:
    """A tokenizer.json of so many tokens and its tokenizer_config.json; returns what it was converted from."""
    made = train(TEXTS, folder / f"made_{vocab_size}", vocab_size)
    contents = tokenizer_files(made, 64)
    (folder / name).write_text(contents["tokenizer.json"])
    (folder / "tokenizer_config.json").write_text(contents["tokenizer_config.json"])
    return made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of a model of Hugging Face with 353 rows, its tokenizer, and what else lies beside."""
    folder = tmp_path / "model"
    folder.mkdir()
    shapes = parameter_shapes(MODEL)
    tensors = {
        link.theirs[0]: torch.zeros(shapes[link.ours[0]])
        for link in BY_TYPE["llama"].links(MODEL, list(shapes))
    }
    save_file(tensors, folder / "model.safetensors")
    config = BY_TYPE["llama"].write(MODEL, 1e4, 64) | {"eos_token_id": 1, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text('{"temperature": 0.6}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "LICENSE.txt").write_text("Do what you like.")
    write_tokenizer(folder, 353).path.unlink()
    return folder


@pytest.fixture
def imported(model: Path, tmp_path: Path) -> Path:
    assert import_(["--model", str(model), "--output", str(tmp_path / "imported")]) == 0
    return tmp_path / "imported"


def corpus(folder: Path, tokenizer: Path) -> str:
    """Token files made with this tokenizer; their prefix."""
    (folder / "texts.txt").write_text("".join(TEXTS))
    prepare(
        PrepareOptions((str(folder / "texts.txt"),), str(folder / "web"), str(tokenizer), show_progress=False)
    )  # fmt: skip
    return str(folder / "web")


def trained(run: Path, imported: Path, prefix: str, tokenizer: Path | None) -> Path:
    """A checkpoint of a run on token files, as if it had trained; tokenizer None: of a version that recorded none."""
    checkpoint = run / "checkpoints/step_00000001"
    shutil.copytree(imported, checkpoint, ignore=shutil.ignore_patterns(KEPT))
    facts = {} if tokenizer is None else {"sha256": open_tokenizer(tokenizer).sha256}
    state = dataclasses.replace(read_state(imported), step=1, tokenizer=facts)
    content = {"format": FORMAT, **dataclasses.asdict(state)}
    (checkpoint / "state.json").write_bytes(seal(content))
    data = ["data=files", f"data.sources.web.prefix={prefix}", "model.vocab_size=353"]
    (run / "config.yaml").write_text(to_yaml(compose_run([*data, "evaluation.enabled=false"])))
    return checkpoint


def exported(checkpoint: Path, *options: Any) -> int:
    output = checkpoint.parent / "out"
    shutil.rmtree(output, ignore_errors=True)
    return export(["--checkpoint", str(checkpoint), "--output", str(output), *map(str, options)])


@pytest.mark.parametrize("version_knows", [True, False])
def test_the_tokenizer_of_the_corpus_is_exported_whatever_its_name(
    imported: Path, tmp_path: Path, version_knows: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "y"
    place.mkdir()
    write_tokenizer(place, 330)
    write_tokenizer(place, 340, "mytok.json")
    prefix = corpus(place, place / "mytok.json")
    recorded = place / "mytok.json" if version_knows else None
    checkpoint = trained(tmp_path / "run", imported, prefix, recorded)
    out = checkpoint.parent / "out"
    assert exported(checkpoint) == 0
    assert (out / "tokenizer.json").read_bytes() == (place / "mytok.json").read_bytes()
    assert (
        open_tokenizer(out / "tokenizer.json").sha256 == open_tokenizer(place / "mytok.json").sha256
    )
    # By its hash also where it is asked for, and from a folder.
    capsys.readouterr()
    assert exported(checkpoint, "--tokenizer", place) == 2
    assert "the corpus was made with" in capsys.readouterr().err
    (place / "mytok.json").rename(tmp_path / "elsewhere.json")
    assert exported(checkpoint) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "neither in huggingface/ nor beside its token files; give --tokenizer PATH" in line
    assert not out.exists()
    shutil.copyfile(place / "tokenizer_config.json", tmp_path / "tokenizer_config.json")
    assert exported(checkpoint, "--tokenizer", tmp_path / "elsewhere.json") == 0
    assert exported(checkpoint, "--tokenizer", "none") == 0
    assert not (out / "tokenizer.json").exists()


def test_a_folder_is_refused_for_what_a_file_is_refused_for(
    imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large, nothing = tmp_path / "large", tmp_path / "nothing"
    large.mkdir(), nothing.mkdir()
    write_tokenizer(large, 403)
    (tmp_path / "y").mkdir()
    prefix = corpus(tmp_path / "y", large / "tokenizer.json")
    checkpoint = trained(tmp_path / "run", imported, prefix, large / "tokenizer.json")
    for given in (large, large / "tokenizer.json"):
        assert exported(checkpoint, "--tokenizer", given) == 2
        assert "has 403 tokens, the model 353" in capsys.readouterr().err
    assert exported(checkpoint, "--tokenizer", nothing) == 2
    assert "has no tokenizer.json and no tokenizer.model" in capsys.readouterr().err


def test_what_came_with_an_imported_model_travels_with_its_runs_and_comes_back(
    imported: Path, model: Path, tmp_path: Path
) -> None:
    prefix = corpus(tmp_path, model / "tokenizer.json")
    checkpoint = trained(tmp_path / "run", imported, prefix, model / "tokenizer.json")
    carry_into_run(imported, tmp_path / "run")
    shutil.copytree(tmp_path / "run" / KEPT, checkpoint / KEPT)
    shutil.rmtree(imported)
    assert exported(checkpoint) == 0
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE.txt"):
        assert (checkpoint.parent / "out" / name).read_bytes() == (model / name).read_bytes(), name
    generation = json.loads((checkpoint.parent / "out/generation_config.json").read_text())
    assert generation == {"temperature": 0.6}
    assert exported(checkpoint, "--context-length", "128") == 0
    tokens = json.loads((checkpoint.parent / "out/tokenizer_config.json").read_text())
    assert tokens["model_max_length"] == 128  # or texts would be cut at the length before
    # A run that starts from another checkpoint has that one's files, or none.
    carry_into_run(None, tmp_path / "run")
    assert not (tmp_path / "run" / KEPT).exists()


def test_a_kept_tokenizer_that_is_not_the_corpus_s_is_not_exported(
    imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "y").mkdir()
    other = write_tokenizer(tmp_path / "y", 340).path
    checkpoint = trained(tmp_path / "run", imported, corpus(tmp_path / "y", other), other)
    shutil.copytree(imported / KEPT, checkpoint / KEPT)
    assert exported(checkpoint) == 0  # found beside the token files, and converted
    found = open_tokenizer(checkpoint.parent / "out/tokenizer.json")
    assert found.vocab_size == 340
    other.unlink()
    assert exported(checkpoint) == 2
    assert "neither in huggingface/ nor beside" in capsys.readouterr().err


def test_a_text_that_would_begin_unlike_the_documents_of_training_is_told(
    imported: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = trained(
        tmp_path / "run",
        imported,
        corpus(tmp_path, model / "tokenizer.json"),
        model / "tokenizer.json",
    )
    content = dataclasses.asdict(read_state(checkpoint))
    content["tokenizer"]["bos_id"] = 7  # data.prepare --bos always
    (checkpoint / "state.json").write_bytes(seal({"format": FORMAT, **content}))
    capsys.readouterr()
    assert exported(checkpoint, "--tokenizer", model) == 0
    note = "the exported tokenizer puts nothing before a text, documents had token 7 before them"
    assert note in capsys.readouterr().err


def test_another_tokenizer_than_the_model_was_trained_with_is_refused(imported: Path) -> None:
    state = read_state(imported)
    own = state.tokenizer["sha256"]

    def wrong(sha256: str, *allowed: str, bos_id: int | None = None) -> list[str]:
        return differences(
            state,
            MODEL,
            optimizer="adamw",
            rope_base=state.rope_base,
            data={},
            tokenizer={"sha256": sha256, "bos_id": bos_id},
            allowed=[*allowed],
        )

    assert wrong(own) == wrong("") == wrong("0" * 64, "tokenizer") == []
    assert [wrong(alike) for alike in state.tokenizer["alike"]] == [
        []
    ]  # what it was converted from
    (line,) = wrong("0" * 64)
    assert "made with another tokenizer (000000000000)" in line
    # A tokenizer that begins every text with a token, and a corpus without it; and the reverse.
    (line,) = wrong(own, bos_id=7)
    assert (
        "begin with the BOS token 7, those that the model was trained with begin with no BOS"
        in line
    )
    state.tokenizer["bos_id"] = 7
    (line,) = wrong(own)
    assert (
        "begin with no BOS token, those that the model was trained with begin with the BOS token 7"
        in line
    )
    assert wrong(own, bos_id=7) == wrong(own, "tokenizer") == []
    state = RunState(
        model=state.model, rope_base=state.rope_base
    )  # of a version that recorded none
    assert wrong("0" * 64) == []
