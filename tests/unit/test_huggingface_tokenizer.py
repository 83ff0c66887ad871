"""Our tokenizers in transformers, and theirs here: the same ids for every text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.prepare.job import prepare
from data.prepare.options import PrepareOptions
from data.tokenizer.any_tokenizer import open_tokenizer
from data.tokenizer.convert import tokenizer_files
from data.tokenizer.sentencepiece_model import CHUNK_CHARACTERS, META_SYMBOL, Tokenizer, train
from data.tokenizer.tokenizer_json import JsonTokenizer
from data.tokens.indexed_dataset import IndexedDataset

SENTENCES = [
    f"def function_{i}(value):\n\n\n        return value * {i * 37} + offset[{i}]  #  step {i}\n"
    * 3
    + "aaaa aaaaa abababab bababa aabaab  aba \t\t\t"
    for i in range(200)
]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train(SENTENCES, tmp_path_factory.mktemp("tokenizer") / "t.model", 400)


@pytest.fixture(scope="module")
def folder(ours: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    for name, content in tokenizer_files(ours, 4096).items():
        (folder / name).write_text(content)
    return folder


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


NASTY = [
    "",
    "  \t\t\r\n\n  x   ",
    "\0a\0\0b",
    f"a{META_SYMBOL}{META_SYMBOL} {META_SYMBOL}b",
    "<s></s><unk><pad><0x41></s>",
    "\U0001f600\U0001f469\u200d\U0001f469\u200d\U0001f466",
    "e\u0301\u00e9\ufb01\uff21\u3000\ufeff\u2028\x85\u2047\ufffd\U0010ffff",
    "a" * (2 * CHUNK_CHARACTERS + 1),
    "\n" * (CHUNK_CHARACTERS + 5),
    ("ab" * 7 + "\n") * 3000,
    "".join(SENTENCES),
]


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_nasty_text_has_the_same_ids_and_comes_back(ours, theirs, text):
    ids = theirs(text)["input_ids"]
    assert ids == ours.encode(text).tolist()
    assert theirs.decode(ids) == text


@settings(derandomize=True, deadline=None, max_examples=400)
@given(
    st.text(
        st.one_of(
            st.characters(exclude_categories=("Cs",)),
            # Few characters: runs and overlaps, where the order of merges shows.
            st.sampled_from(" \n\taab\u2581</s>def"),
        ),
        max_size=60,
    )
)
def test_any_text_has_the_same_ids(ours, theirs, text):
    assert theirs(text)["input_ids"] == ours.encode(text).tolist()


def test_a_tokenizer_in_use_is_complete(ours, theirs):
    assert len(theirs) == ours.vocab_size
    assert theirs.eos_token_id == ours.eos_id
    assert theirs.model_max_length == 4096


def test_long_text_is_encoded_as_if_it_were_whole(ours):
    whole = "x" * 7 + "\n".join("    " * (i % 5) + f"step {i % 10}" for i in range(6000))
    assert len(whole) > 3 * CHUNK_CHARACTERS
    direct = ours._processor.encode(whole)
    assert ours.encode(whole).tolist() == direct


def test_a_tokenizer_json_prepares_the_same_files(ours, folder, tmp_path):
    documents = tmp_path / "d.jsonl"
    texts = [text for text in NASTY if text.strip()][:5]
    documents.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    read = []
    for name, tokenizer in (("a", folder / "tokenizer.json"), ("b", ours.path)):
        options = PrepareOptions(
            (str(documents),), str(tmp_path / name), str(tokenizer), workers=2, show_progress=False
        )
        (manifest,) = prepare(options)
        assert manifest["eos_id"] == ours.eos_id
        assert manifest["vocab_size"] == ours.vocab_size
        dataset = IndexedDataset(str(tmp_path / name), page_bytes=int(manifest["page_bytes"]))
        lengths = dataset.document_lengths(np.arange(len(texts)))
        read.append([dataset.read(i, 0, int(n)).tolist() for i, n in enumerate(lengths)])
    assert read[0] == read[1]


def test_mistakes_are_one_clear_line(folder, tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        open_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
        open_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    with pytest.raises(ValueError, match="no file names the token"):
        JsonTokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "config.json").write_text('{"eos_token_id": [1, 7]}')
    assert JsonTokenizer(tmp_path / "tokenizer.json").eos_id == 1
