"""A BOS token begins every document where the tokenizer's own files say so, or where it is asked for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.prepare.__main__ import main
from data.prepare.job import prepare
from data.prepare.options import PrepareOptions
from data.sources import open_source
from data.tokens.indexed_dataset import IndexedDataset

BOS, EOS = 259, 258


def _tokenizer(folder: Path, leading: list[str], **config: Any) -> Path:
    """A byte-level tokenizer.json whose post-processor puts `leading` before a text and </s> behind it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: n for n, c in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<unused0>", "<unused1>", "</s>", "<s>"]
    backend.add_special_tokens(special)
    if leading:
        backend.post_processor = processors.TemplateProcessing(
            single=" ".join([*leading, "$A", "</s>"]),
            special_tokens=[(name, 256 + number) for number, name in enumerate(special)],
        )
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "</s>", "bos_token": "<s>", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder / "tokenizer.json"


def _prepared(
    folder: Path, tokenizer: Path, bos: str, workers: int = 1
) -> tuple[Any, list[list[int]]]:
    source = folder / "in.jsonl"
    if not source.exists():
        source.write_text('{"text": "ab"}\n{"text": "<s>"}\n')
    output = str(folder / f"{bos}{workers}")
    (made,) = prepare(
        PrepareOptions(
            (str(source),), output, str(tokenizer), workers, bos=bos, show_progress=False
        )
    )
    dataset = IndexedDataset(output)
    lengths = dataset.document_lengths(np.arange(dataset.num_documents))
    return made, [dataset.read(n, 0, int(length)).tolist() for n, length in enumerate(lengths)]


@pytest.mark.parametrize(
    ("leading", "config", "own"),
    [
        ([], {}, False),
        ([], {"add_bos_token": False}, False),
        ([], {"add_bos_token": True}, True),
        (["<s>"], {}, True),
        (["<s>"], {"add_bos_token": None}, True),
        (["<s>"], {"add_bos_token": False}, False),
        (["<s>"], {"bos_token": None}, True),
    ],
)
def test_auto_is_what_the_tokenizer_itself_does(
    tmp_path: Path, leading: list[str], config: dict[str, Any], own: bool
) -> None:
    tokenizer = _tokenizer(tmp_path, leading, **config)
    made, documents = _prepared(tmp_path, tokenizer, "auto")
    begin = [BOS] if own else []
    assert [document[: len(begin)] for document in documents] == [begin, begin]
    assert [document.count(BOS) for document in documents] == [len(begin)] * 2, "a text gives none"
    assert [document[-1] for document in documents] == [EOS, EOS]
    assert [len(document) for document in documents] == [3 + len(begin), 4 + len(begin)]
    assert made.get("bos_id", "absent") == (BOS if own else "absent")
    assert open_source("x", str(tmp_path / "auto1")).bos_id == (BOS if own else None)


def test_always_and_never_are_taken_at_their_word_by_every_worker(tmp_path: Path) -> None:
    plain, adding = _tokenizer(tmp_path / "a", []), _tokenizer(tmp_path / "b", ["<s>"])
    for tokenizer, bos, first in ((plain, "always", BOS), (adding, "never", None)):
        made, documents = _prepared(tokenizer.parent, tokenizer, bos)
        assert made.get("bos_id") == first
        assert {document[0] == BOS for document in documents} == {first is not None}
        assert _prepared(tokenizer.parent, tokenizer, bos, workers=2)[1] == documents


def test_files_without_a_bos_are_those_of_the_version_before(tmp_path: Path) -> None:
    """The fingerprint of old files is unchanged, so they are found made."""
    tokenizer = _tokenizer(tmp_path, [])
    assert _prepared(tmp_path, tokenizer, "auto")[0] == _prepared(tmp_path, tokenizer, "never")[0]


def test_another_bos_is_another_job(tmp_path: Path) -> None:
    tokenizer = _tokenizer(tmp_path, ["<s>"])
    _prepared(tmp_path, tokenizer, "auto")
    options = [str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "auto1")]
    options += ["--tokenizer", str(tokenizer), "--bos", "never"]
    with pytest.raises(ValueError, match=r"of another job \(BOS token 259, now none\)"):
        prepare(
            PrepareOptions(
                (str(tmp_path / "in.jsonl"),), str(tmp_path / "auto1"), str(tokenizer), bos="never"
            )
        )
    assert main(["--input", *options]) == 2
    assert main(["--input", *options, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("leading", "config", "bos", "said"),
    [
        ([], {"bos_token": None}, "always", "has no BOS token, and one was asked for"),
        ([], {"bos_token": None, "add_bos_token": True}, "auto", "its files say add_bos_token"),
        ([], {"bos_token": "<begin>", "add_bos_token": True}, "auto", "has no BOS token"),
        ([], {}, "sometimes", "bos=sometimes: unknown; use auto or always or never"),
        (["<unused0>", "<s>"], {}, "auto", "begins a text with 2 tokens"),
    ],
)
def test_a_bos_that_is_not_there_is_one_clear_line(
    tmp_path: Path, leading: list[str], config: dict[str, Any], bos: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        _prepared(tmp_path, _tokenizer(tmp_path, leading, **config), bos)


def test_a_sentencepiece_model_says_it_in_the_file_beside_it(tmp_path: Path) -> None:
    import sentencepiece

    model = tmp_path / "tokenizer.model"
    with model.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["ab abc abd"] * 9),
            model_writer=file,
            vocab_size=265,
            model_type="bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            bos_id=2,
            eos_id=1,
            minloglevel=2,
        )
    assert "bos_id" not in _prepared(tmp_path, model, "auto")[0]
    assert [d[0] for d in _prepared(tmp_path, model, "always")[1]] == [2, 2]
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": true}')
    (tmp_path / "again").mkdir()
    assert _prepared(tmp_path / "again", model, "auto")[0]["bos_id"] == 2
