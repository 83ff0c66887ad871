"""What is said of other programs is what was found: llama.cpp gives our logits exactly where nothing is said of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from model.huggingface.catalogue import BY_TYPE
from model.huggingface.readers import EXAMINED, LIMITS, LLAMA_CPP, VERSIONS, limits_of
from tests.unit.huggingface_cases import SLIDING, WINDOW
from tests.unit.huggingface_folders import written_model
from tests.unit.reader_cases import EVERY_OTHER, OTHER_CASES, READER_CASES, said
from train.huggingface.export_model import ExportOptions, export_model
from train.huggingface.import_model import import_model

ROOT = Path(__file__).resolve().parents[2]
RECORD: dict[str, Any] = json.loads((ROOT / "docs/benchmarks/llama_cpp_logits.json").read_text())
FOUND = {row["case"]: row for row in RECORD["numbers"]["rows"]}


@pytest.mark.parametrize("case", READER_CASES)
def test_llama_cpp_gives_our_logits_where_no_limit_is_named_and_nowhere_else(case: str) -> None:
    assert (FOUND[case]["outcome"] == "equal") == (not said(case, LLAMA_CPP))
    assert FOUND[case]["says"] == said(case, LLAMA_CPP)


def test_every_limit_of_llama_cpp_was_met_and_every_version_is_the_one_that_was_run() -> None:
    met = {line for case in READER_CASES for line in said(case, LLAMA_CPP)}
    assert met == {limit.says for limit in LIMITS if limit.reader == LLAMA_CPP}
    assert RECORD["numbers"]["versions"]["llama-cpp-python"] == VERSIONS[LLAMA_CPP]


@pytest.mark.parametrize("case", READER_CASES)
def test_limits_of_other_programs_can_be_asked_of_every_model(case: str) -> None:
    for reader in VERSIONS:
        assert len(said(case, reader)) == len(set(said(case, reader)))


def test_of_a_family_that_no_program_was_run_with_that_is_said() -> None:
    assert {kind for kind, _ in READER_CASES.values()} == EXAMINED
    assert {kind for kind, _ in OTHER_CASES.values()} == BY_TYPE.keys() - EXAMINED
    for case in OTHER_CASES:
        for reader in VERSIONS:
            assert said(case, reader) == ["was not examined with this family"]


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "proportional"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_of_a_rotation_that_no_program_was_run_with_that_is_said(family: str, kind: str) -> None:
    plain = {"rope_type": "default", "rope_theta": 1e4}
    rope = {**plain, "rope_type": kind}
    by_kind = {"full_attention": rope, "sliding_attention": plain}
    config = {"model_type": family, "rope_parameters": rope if family == "llama" else by_kind}
    config |= {
        "layer_types": EVERY_OTHER,
        "num_hidden_layers": 4,
        "head_dim": 16,
        "num_attention_heads": 4,
    }
    config |= {"hidden_size": 64, "tie_word_embeddings": True, "query_pre_attn_scalar": 16}
    for lines in limits_of(config).values():
        assert lines[-1] == f"was not examined with rope_type={kind}"
    assert len(limits_of(config)) == len(VERSIONS)


def test_an_export_says_what_other_programs_do_otherwise_and_so_does_its_card(
    tmp_path: Path,
) -> None:
    source = written_model(
        tmp_path / "theirs", "cohere2", tie_word_embeddings=False, attention_bias=True, sliding_window=WINDOW,
        layer_types=SLIDING,
    )  # fmt: skip
    import_model(source, tmp_path / "ours")
    _, notes = export_model(tmp_path / "ours", tmp_path / "out", ExportOptions(tokenizer="none"))
    card = (tmp_path / "out/README.md").read_text()
    for reader in VERSIONS:
        named = [note for note in notes if note.startswith(f"{reader} {VERSIONS[reader]} ")]
        assert len(named) == 1, "one line a program"
        assert named[0].split(f"{VERSIONS[reader]} ", 1)[1] in card
    assert any("takes the embedding for the head" in note for note in notes)


def test_the_document_names_the_versions_and_every_family() -> None:
    document = (ROOT / "docs/huggingface.md").read_text()
    for reader, version in VERSIONS.items():
        assert f"{reader} {version}" in document
    for family in BY_TYPE:
        assert f"`{family}`" in document
