"""An id, an end token or a vocabulary that is wrong is named before anything is trained on it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.config import DataConfig, SourceConfig
from data.files import seal, unseal
from data.manifest import main as describe
from data.sources import open_corpus, open_source
from data.tokenizer.any_tokenizer import open_tokenizer
from data.tokens import manifest
from data.tokens.indexed_dataset import DTYPES, write_index
from data.tokens.prefix import manifest_path
from data.tokens.token_file import DamagedData


def _write(prefix: Path, tokens: list[int], dtype: str = "u2") -> Path:
    """Files of another tool: one document."""
    kept = np.dtype(f"<{dtype}")
    with Path(f"{prefix}.idx").open("wb") as file:
        write_index(file, np.array([len(tokens)], dtype=np.int32), kept)
    Path(f"{prefix}.bin").write_bytes(np.array(tokens, dtype=kept).tobytes())
    return prefix


def _created(prefix: Path, *options: str) -> int:
    return describe([str(prefix), "--create", *options])


def _config(*prefixes: Path) -> DataConfig:
    return DataConfig(sources={path.name: SourceConfig(prefix=str(path)) for path in prefixes})


@pytest.mark.parametrize("place", [0, 30, 59])
def test_an_id_beyond_the_vocabulary_is_found_wherever_it_is(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    place: int,
) -> None:
    monkeypatch.setattr(manifest, "READ_BYTES", 16)
    monkeypatch.setattr(manifest, "BLOCK_BYTES", 40)
    monkeypatch.setattr(manifest, "PAGE_BYTES", 8)
    tokens = [10 + n * 6 for n in range(60)]
    tokens[place] = 500
    prefix = _write(tmp_path / "web", tokens)
    assert _created(prefix, "--vocab-size", "420", "--eos-id", "2") == 2
    assert capsys.readouterr().err == (
        f"data.manifest: {prefix}.bin: holds id 500 (token {place} of the file), the vocabulary has 420 (ids 0 to"
        " 419); give the vocabulary that it was made with, or make it again\n"
    )
    assert not manifest_path(prefix).exists()
    assert _created(prefix, "--vocab-size", "501", "--eos-id", "2") == 0
    assert "ids up to 500, good" in capsys.readouterr().err
    assert manifest.load(prefix)["largest_id"] == 500


@pytest.mark.parametrize("dtype", [kind.str[1:] for kind in DTYPES.values() if kind.kind in "iu"])
def test_every_type_of_token_is_looked_at_and_a_negative_id_is_none(
    tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = _write(tmp_path / "x", [0, 7, 100, 3], dtype)
    assert _created(prefix, "--vocab-size", "101", "--eos-id", "2") == 0
    assert manifest.load(prefix)["largest_id"] == 100
    if dtype.startswith("i"):
        prefix = _write(tmp_path / "y", [5, -1, 100], dtype)
        assert _created(prefix, "--vocab-size", "101", "--eos-id", "2") == 2
        assert "y.bin: holds id -1 (token 1 of the file)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--vocab-size", "420", "--eos-id", "9999"], "eos_id=9999: must be from 0 to 419"),
        (["--vocab-size", "420", "--eos-id", "-1"], "eos_id=-1: must be from 0 to 419"),
        (["--vocab-size", "-5", "--eos-id", "1"], "vocab_size=-5: must be at least 1"),
        (["--vocab-size", "0", "--eos-id", "1"], "vocab_size=0: must be at least 1"),
        (
            ["--vocab-size", "9", "--eos-id", "9", "--bos-id", "11"],
            "bos_id=11: must be from 0 to 8",
        ),
        (["--vocab-size", "420"], "--create needs --vocab-size N and --eos-id I"),
        (["--eos-id", "1"], "--create needs --vocab-size N and --eos-id I"),
    ],
)
def test_ids_that_are_declared_belong_to_the_vocabulary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    prefix = _write(tmp_path / "x", [1, 2, 3])
    assert _created(prefix, *options) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert not manifest_path(prefix).exists()


@pytest.mark.parametrize(
    "change", [{"largest_id": 420}, {"eos_id": 420}, {"vocab_size": -5}, {"eos_id": True}]
)
def test_a_manifest_that_declares_an_impossible_id_does_not_open(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """As `--create` of the version before wrote them."""
    prefix = _write(tmp_path / "x", [1, 2, 3])
    assert _created(prefix, "--vocab-size", "420", "--eos-id", "2") == 0
    path = manifest_path(prefix)
    path.write_bytes(seal({**unseal(path.read_bytes()), **change}))
    for check in (True, False):
        with pytest.raises(ValueError, match=rf"{next(iter(change))}=.*: must be .* --overwrite"):
            open_corpus(_config(prefix), tmp_path, 500, check=check)


def test_without_a_largest_id_every_piece_is_compared_as_it_is_read(tmp_path: Path) -> None:
    tokens = list(range(10, 300))
    prefix = _write(tmp_path / "x", tokens)
    assert _created(prefix, "--vocab-size", "420", "--eos-id", "2") == 0
    path = manifest_path(prefix)
    old = unseal(path.read_bytes())
    del old["largest_id"]
    path.write_bytes(seal(old))
    assert open_source("x", str(prefix)).read(0, 0, 290).tolist() == tokens
    path.write_bytes(seal({**old, "vocab_size": 200}))
    source = open_source("x", str(prefix))
    assert source.read(0, 0, 190).tolist() == tokens[:190]
    with pytest.raises(
        DamagedData, match=r"x.bin: document 0 holds id 200, the vocabulary has 200"
    ):
        source.read(0, 180, 11)


def test_sources_of_a_run_end_and_begin_documents_alike(tmp_path: Path) -> None:
    for name, options in (
        ("a", ["--eos-id", "2"]),
        ("b", ["--eos-id", "3"]),
        ("c", ["--eos-id", "2", "--bos-id", "1"]),
    ):
        assert _created(_write(tmp_path / name, [1, 2, 3]), "--vocab-size", "4", *options) == 0
    a, b, c = (tmp_path / name for name in "abc")
    said = rf"data.sources.b.prefix={b}: its documents end with id 3, those of a with 2; prepare or"
    with pytest.raises(ValueError, match=said):
        open_corpus(_config(a, b), tmp_path, 4)
    said = r"its documents begin with BOS id 1, those of a with none"
    with pytest.raises(ValueError, match=said):
        open_corpus(_config(a, c), tmp_path, 4)
    config = _config(a)
    config.heldout = str(b)
    with pytest.raises(ValueError, match=rf"data.heldout={b}: its documents end with id 3"):
        open_corpus(config, tmp_path, 4)


def _tokenizer(folder: Path, model: dict[str, Any] | None = None, **beside: Any) -> Path:
    """A byte-level tokenizer.json of 260 tokens (258: </s>, 259: <s>), with the files beside it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<unused0>", "<unused1>", "</s>", "<s>"])
    content = json.loads(backend.to_str())
    content["model"] |= model or {}
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    for name, value in beside.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (folder / f"{name}.json").write_text(text)
    return folder / "tokenizer.json"


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        (
            {"config": {"eos_token_id": 99999}},
            "eos_token_id=99999, which is none of its 260 tokens",
        ),
        ({"config": {"eos_token_id": 260}}, "eos_token_id=260, which is none of its 260 tokens"),
        ({"config": {"eos_token_id": -1}}, "eos_token_id=-1, which is none"),
        ({"config": {"eos_token_id": True}}, "eos_token_id=true, which is none"),
        ({"config": {"eos_token_id": [True]}}, "eos_token_id=true, which is none"),
        ({"config": {"eos_token_id": 2.0}}, r"eos_token_id=2\.0, which is none"),
        ({"config": {"eos_token_id": []}}, r"eos_token_id=\[\], which is none"),
        (
            {"config": {"eos_token_id": 64}},
            "the end token 64 of config.json is what the text 'a' giv",
        ),
        ({"config": {}}, "no file names the token that ends documents"),
        ({"config": "{"}, r"config\.json cannot be read"),
        ({"config": "[]"}, r"config\.json is no JSON object"),
        (
            {"tokenizer_config": {"eos_token": "<end>"}},
            "eos_token='<end>', which is none of its tok",
        ),
        ({"tokenizer_config": {"eos_token": 7}}, "eos_token=7; name a token"),
        (
            {"tokenizer_config": {"eos_token": "</s>", "add_bos_token": "yes"}},
            'add_bos_token="yes"',
        ),
    ],
)
def test_an_end_token_is_a_token_of_its_tokenizer_that_no_text_gives(
    tmp_path: Path, beside: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=rf"tokenizer=.*tokenizer\.json: .*{said}") as error:
        open_tokenizer(_tokenizer(tmp_path, **beside))
    assert "\n" not in str(error.value)


def test_a_good_end_token_is_taken_from_either_file(tmp_path: Path) -> None:
    named = _tokenizer(tmp_path / "a", tokenizer_config={"eos_token": {"content": "</s>"}})
    assert open_tokenizer(named).eos_id == 258
    numbered = _tokenizer(tmp_path / "b", config={"eos_token_id": [258, 3]})
    assert open_tokenizer(numbered).eos_id == 258
    assert open_tokenizer(numbered).vocab_size == 260


def test_a_tokenizer_that_loses_characters_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    backend = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    backend.add_special_tokens(["</s>"])
    (tmp_path / "tokenizer.json").write_text(backend.to_str())
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    with pytest.raises(
        ValueError, match=r"gives no token for '\\u0416', .*would vanish; use one wi"
    ):
        open_tokenizer(tmp_path / "tokenizer.json")


def test_a_manifest_that_is_created_knows_a_tokenizer_as_data_prepare_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _tokenizer(tmp_path / "t", tokenizer_config={"eos_token": "</s>"})
    prefix = _write(tmp_path / "x", [1, 2, 258])
    assert _created(prefix, "--tokenizer", str(path), "--vocab-size", "300") == 2
    assert "--vocab-size=300: " in capsys.readouterr().err
    assert _created(prefix, "--tokenizer", str(path)) == 0
    made = manifest.load(prefix)
    assert made["tokenizer"]["sha256"] == open_tokenizer(path).sha256
    assert (made["vocab_size"], made["eos_id"]) == (260, 258)
    (tmp_path / "vocab.txt").write_text("a file of another tool")
    given = ["--tokenizer", str(tmp_path / "vocab.txt"), "--vocab-size", "300", "--eos-id", "2"]
    assert _created(prefix, *given) == 2, "a manifest is there"
    assert _created(prefix, *given, "--overwrite") == 0
    assert "only its SHA-256 is recorded" in capsys.readouterr().err
