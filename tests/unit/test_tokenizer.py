"""Any text comes back exactly; the same corpus trains the same model; mistakes are named."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data.tokenizer.sentencepiece_model import (
    CHUNK_CHARACTERS,
    META_SYMBOL,
    Tokenizer,
    token_dtype,
    train,
)
from data.tokenizer.training import main

SENTENCES = [
    f"def function_{i}(value):\n    return value * {i * 37} + offset[{i}]  # step {i}\n" * 3
    for i in range(200)
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train(SENTENCES, tmp_path_factory.mktemp("tokenizer") / "t.model", 360)


NASTY = [
    "",
    " ",
    "  \t\t\r\n\n  x   ",
    "\0a\0\0b",
    META_SYMBOL,
    f"a{META_SYMBOL}{META_SYMBOL} {META_SYMBOL}b",
    "<s></s><unk><pad><0x41></s>",
    "\U0001f600\U0001f469\u200d\U0001f469\u200d\U0001f466",
    "e\u0301\u00e9\ufb01\uff21\u3000",
    "\ufeff\u2028\u2029\x85\x7f\x01\u200b",
    "\u2047\u2585\ufffd\ufffe\uffff\ue000\U0010ffff",
    "a" * (3 * CHUNK_CHARACTERS),
    ("x" * 100 + "\n") * 1000,
    (" " * 10 + META_SYMBOL) * 4000,
]


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_nasty_text_comes_back_exactly(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_id not in ids


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    st.text(
        st.one_of(
            st.characters(exclude_categories=("Cs",)),
            st.sampled_from(" \t\n\r\0\u2581</s>0x_"),
        ),
        max_size=40,
    )
)
def test_any_text_comes_back_exactly(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_are_single_tokens(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.piece(int(i)) for i in tokenizer.encode("x = 370370")]
    assert pieces[-6:] == list("370370")


def test_training_is_deterministic(tmp_path: Path) -> None:
    first, second = (train(SENTENCES, tmp_path / f"{n}.model", 350) for n in (1, 2))
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.sha256 == second.sha256


def test_ids_fit_their_dtype(tokenizer: Tokenizer) -> None:
    assert token_dtype(65_499) == np.uint16
    assert token_dtype(65_500) == np.int32
    assert tokenizer.encode("abc").dtype == np.uint16
    assert tokenizer.vocab_size == 360


def test_a_model_that_changes_text_is_refused(tmp_path: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        vocab_size=400,
        byte_fallback=True,
        minloglevel=2,
    )
    path = tmp_path / "lossy.model"
    path.write_bytes(model.getvalue())
    with pytest.raises(ValueError, match="does not give every text back unchanged"):
        Tokenizer(path)


def test_mistakes_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such file; train one with `ropewalk tokenizer"):
        Tokenizer(tmp_path / "absent.model")
    (tmp_path / "noise.model").write_bytes(b"noise")
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        Tokenizer(tmp_path / "noise.model")
    with pytest.raises(ValueError, match="vocab_size=100: needs at least"):
        train(SENTENCES, tmp_path / "t.model", 100)
    with pytest.raises(ValueError, match=r"vocab_size=30000: the text gives at most \d+ tokens"):
        train(SENTENCES, tmp_path / "t.model", 30_000)
    assert not (tmp_path / "t.model").exists()


def test_command_line_trains_on_an_even_sample(tmp_path: Path) -> None:
    for i in range(40):
        # Each file has a word of its own: an even sample sees the last files too.
        (tmp_path / f"{i:02}.txt").write_text(f"word{chr(97 + i % 26)}{i:02} is here. " * 300)
    output = tmp_path / "out" / "t.model"
    command = [
        sys.executable,
        "-m",
        "data.tokenizer",
        "--input",
        str(tmp_path),
        "--output",
    ]
    done = subprocess.run(
        [*command, str(output), "--vocab-size", "400", "--sample-bytes", "60000"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tokenizer = Tokenizer(output)
    assert len(tokenizer.encode("wordn is here. ")) <= 7
    arguments = ["--vocab-size", "400", "--output"]
    assert main(["--input", "/no/such", *arguments, str(tmp_path / "other.model")]) == 2
    before = output.read_bytes()
    assert main(["--input", str(tmp_path / "00.txt"), *arguments, str(output)]) == 2
    assert output.read_bytes() == before, "a tokenizer in use is not replaced unasked"
