"""The embedded corpus is found, made once and opened; every configuration mistake is named."""

import hashlib
import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from data import embedded_corpus as corpus
from data.config import DataConfig, SourceConfig
from data.prepare.job import prepare
from data.prepare.options import PrepareOptions
from data.sources import make_corpus, open_corpus
from data.tokenizer.sentencepiece_model import Tokenizer, train
from data.tokens.indexed_dataset import IndexedDataset


def test_the_standard_library_has_documents_in_a_fixed_order() -> None:
    files = corpus.stdlib_documents()
    assert len(files) > 400
    assert files == corpus.stdlib_documents()
    root = Path(sysconfig.get_path("stdlib"))
    assert str(root / "argparse.py") in files
    assert not [name for name in files if "site-packages" in name or "__pycache__" in name]
    for name in files[::50]:
        assert Path(name).read_bytes().decode()


@pytest.fixture
def few_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    files = corpus.stdlib_documents()[:60]
    monkeypatch.setattr(corpus, "stdlib_documents", lambda: files)
    return files


def _digests(folder: Path) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


def test_the_quickstart_is_made_once_and_again_only_when_something_changed(
    tmp_path: Path, few_files: list[str]
) -> None:
    config = DataConfig(corpus="python_stdlib", workers=1)
    assert config.problems() == []
    make_corpus(config, tmp_path, 600, show_progress=False)
    digests = _digests(tmp_path)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    make_corpus(config, tmp_path, 600, show_progress=False)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == stamps
    damaged = next(tmp_path.rglob("train.bin"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 3] ^= 4
    damaged.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"train\.bin: damaged between byte .* and byte .*"
    ) as error:
        open_corpus(config, tmp_path, 600)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"damaged between .* the next run makes it anew"):
        make_corpus(config, tmp_path, 600, show_progress=False)
    shutil.rmtree(damaged.parent)
    make_corpus(config, tmp_path, 600, show_progress=False)
    assert _digests(tmp_path) == digests

    opened = open_corpus(config, tmp_path, 600)
    assert [source.name for source in opened.sources] == ["python_stdlib"]
    assert opened.vocab_size == 600
    assert opened.heldout is not None
    assert opened.sources[0].num_documents + opened.heldout.num_documents == len(few_files)
    tokenizer = Tokenizer(damaged.with_name("tokenizer.model"))
    assert tokenizer.sha256 == opened.sources[0].tokenizer_sha256
    with pytest.raises(ValueError, match=r"model\.vocab_size=500: the tokenizer of .* has 600 ids"):
        open_corpus(
            DataConfig(sources={"a": SourceConfig(prefix=opened.sources[0].dataset.prefix)}),
            tmp_path,
            500,
        )


def test_sources_keep_their_order_and_weights_and_share_a_tokenizer(tmp_path: Path) -> None:
    texts = [
        f"def f{i}(a{i}b, c):\n    return {{c: [a{i}b]}} # {chr(97 + i)}!\n" for i in range(26)
    ]
    (tmp_path / "a.txt").write_text("".join(texts))
    for name, vocab in (("one", 330), ("two", 340)):
        train(texts, tmp_path / f"{name}.model", vocab)
    for name, model in (("x", "one"), ("y", "one"), ("z", "two")):
        prepare(
            PrepareOptions(
                inputs=(str(tmp_path / "a.txt"),),
                output=str(tmp_path / name),
                tokenizer=str(tmp_path / f"{model}.model"),
                show_progress=False,
            )
        )

    def config(*names: str) -> DataConfig:
        sources = {
            n: SourceConfig(prefix=str(tmp_path / n), weight=3.0 - i) for i, n in enumerate(names)
        }
        return DataConfig(sources=sources)

    opened = open_corpus(config("y", "x"), tmp_path, 330)
    assert [source.name for source in opened.sources] == ["y", "x"]
    assert opened.heldout is None
    source = opened.sources[0]
    whole = IndexedDataset(tmp_path / "y")
    np.testing.assert_array_equal(source.read(0, 2, 5), whole.read(0, 2, 5))
    with pytest.raises(ValueError, match="made with another tokenizer than x"):
        open_corpus(config("x", "z"), tmp_path, 340)


def test_every_mistake_is_reported_together(tmp_path: Path) -> None:
    broken = DataConfig(
        corpus="python_stdlib",
        sources={"a": SourceConfig(prefix=str(tmp_path / "a"), weight=0.0), "b": SourceConfig()},
        heldout=str(tmp_path / "c d"),
    )
    broken.sources["b"].weight = 0.0
    problems = "\n".join(broken.problems())
    for part in (
        "use one of both",
        "brings its own held-out documents",
        "data.sources: every weight is 0",
        f"data.sources.a.prefix={tmp_path}/a: no {tmp_path}/a.bin and no {tmp_path}/a.idx; make",
        f"`ropewalk prepare --input PATH --output {tmp_path}/a --tokenizer MODEL`",
        f"--output '{tmp_path}/c d' --tokenizer MODEL`",
        "data.sources.b.prefix: is empty",
    ):
        assert part in problems
    assert "there is none; give data=files data.sources.NAME.prefix" in DataConfig().problems()[0]
