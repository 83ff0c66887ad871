"""data.prepare onto a prefix that is in use: nothing of another job is replaced without a word, and no file that a
prefix leaves is taken for a document."""

import json
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data import ngram
from data.files import seal, unseal
from data.manifest import main as describe
from data.prepare import worker_pool
from data.prepare.append_journal import AppendJournal
from data.prepare.job import prepare
from data.prepare.options import PrepareOptions
from data.tokenizer.sentencepiece_model import Tokenizer, train
from data.tokens import manifest
from data.tokens.indexed_dataset import IndexedDataset, write_index
from data.tokens.prefix import OWN_SUFFIXES, manifest_path, temporary_files

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "\u03b7\u03c4\u03b1", "\U0001f600"]
TEXTS = [
    " ".join(WORDS[(number * 31 + i * i) % 8] for i in range(3 + number * 7 % 90)) + "\n"
    for number in range(100)
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train(TEXTS, tmp_path_factory.mktemp("tokenizer") / "t.model", 320)


@pytest.fixture
def options(tmp_path: Path, tokenizer: Tokenizer) -> PrepareOptions:
    """A job of eight documents whose outputs lie among its inputs."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(7):
        (folder / f"{number}.txt").write_text(TEXTS[number])
    record = {"text": TEXTS[7], "body": TEXTS[8]}
    (folder / "7.jsonl").write_text(json.dumps(record))
    return PrepareOptions(
        inputs=(str(folder),),
        output=str(folder / "web"),
        tokenizer=str(tokenizer.path),
        show_progress=False,
        commit_bytes=1,
    )


def _interrupt(monkeypatch: pytest.MonkeyPatch, options: PrepareOptions) -> None:
    """Run until three commits are made, then fail."""
    commits = []
    original = AppendJournal.commit

    def commit(self: AppendJournal, state: dict[str, object]) -> None:
        original(self, state)
        commits.append(state)
        if len(commits) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AppendJournal, "commit", commit)
        with pytest.raises(KeyboardInterrupt):
            prepare(options)


def _blocks_encoded(monkeypatch: pytest.MonkeyPatch, options: PrepareOptions) -> int:
    blocks = []
    original = worker_pool.encode_block

    def encode(*arguments: object) -> object:
        blocks.append(arguments)
        return original(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(worker_pool, "encode_block", encode)
        prepare(options)
    return len(blocks)


def _own_files(prefix: str) -> list[Path]:
    named = [Path(f"{prefix}.{suffix}") for suffix in OWN_SUFFIXES]
    return [path for path in [*named, *temporary_files(prefix)] if path.is_file()]


def _contents(prefix: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in _own_files(prefix)}


def _changed(options: PrepareOptions, folder: Path, what: str) -> tuple[PrepareOptions, str]:
    """Another job for the same output, and what differs, in words."""
    if what == "inputs":
        (folder / "other.txt").write_text("other")
        return replace(options, inputs=(str(folder / "other.txt"),)), "inputs .*, now .*other.txt"
    if what == "changed input":
        (folder / "3.txt").write_text("another text than before")
        return options, "the input files have changed since"
    if what == "text field":
        return replace(options, text_field="body"), "text field 'text', now 'body'"
    if what == "tokenizer":
        train(TEXTS[:20], folder.parent / "other.model", 330)
        changed = replace(options, tokenizer=str(folder.parent / "other.model"))
        return changed, r"tokenizer t.model \(\w{12}\), now other.model \(\w{12}\)"
    heldout = {"heldout_output": str(folder / "held"), "heldout_fraction": 0.5}
    changed = replace(options, **heldout)  # type: ignore[arg-type]
    return changed, "held-out part none, now 0.5 with seed 0"


DIFFERENCES = ["inputs", "changed input", "text field", "tokenizer", "held-out"]


@pytest.mark.parametrize("what", DIFFERENCES)
def test_files_of_other_inputs_or_options_are_replaced_only_with_overwrite(
    tmp_path: Path, options: PrepareOptions, what: str
) -> None:
    prepare(options)
    ngram.cached_fit(IndexedDataset(options.output), 320, max_tokens=99, sha256="of the old tokens")
    before = _contents(options.output)
    other, difference = _changed(options, tmp_path / "corpus", what)
    refusal = rf"output={options.output}: holds .* \(.*{difference}.*\)\. .* with --overwrite$"
    with pytest.raises(ValueError, match=refusal) as error:
        prepare(other)
    assert "\n" not in str(error.value)
    assert _contents(options.output) == before
    left = Path(options.output).with_name(".web.crc.host.1.tmp")
    left.write_bytes(b"what a kill left")
    made = prepare(replace(other, overwrite=True))
    assert not left.exists()
    after = _contents(options.output)
    assert after["web.bin"] != before["web.bin"]
    assert "web.ngram" not in after, "counts of tokens that are no more"
    assert manifest.verify(options.output, full=True) == made[0]
    assert prepare(other) == made, "found made, without being asked again"


def test_a_held_out_part_that_becomes_training_data_is_named(
    options: PrepareOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    held = f"{options.output}_held"
    prepare(replace(options, heldout_output=held, heldout_fraction=0.5))
    options = replace(options, overwrite=True, show_progress=True)
    capsys.readouterr()
    prepare(options)
    assert (
        "the held-out part of the replaced files (fraction 0.5, seed 0) stays"
        in capsys.readouterr().err
    )
    prepare(replace(options, text_field="body"))
    assert "held-out" not in capsys.readouterr().err


@pytest.mark.parametrize("what", DIFFERENCES)
def test_an_unfinished_job_of_other_options_is_given_up_only_with_overwrite(
    tmp_path: Path, options: PrepareOptions, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    _interrupt(monkeypatch, options)
    before = _contents(options.output)
    other, difference = _changed(options, tmp_path / "corpus", what)
    if what == "changed input":
        prepare(other)  # no command could go on with what was begun
        return
    refusal = rf"output={options.output}: holds an unfinished job .*{difference}"
    with pytest.raises(ValueError, match=refusal):
        prepare(other)
    assert _contents(options.output) == before
    if what == "inputs":
        prepare(replace(other, overwrite=True))
    else:
        assert _blocks_encoded(monkeypatch, options) == 5, "the first job goes on"


def test_an_overwriting_job_that_is_killed_leaves_the_old_files_and_goes_on(
    options: PrepareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(options)
    before = manifest.verify(options.output, full=True)
    other = replace(options, text_field="body", overwrite=True)
    _interrupt(monkeypatch, other)
    assert manifest.verify(options.output, full=True) == before
    with pytest.raises(ValueError, match="--overwrite"):
        prepare(replace(other, overwrite=False))
    assert _blocks_encoded(monkeypatch, other) == 5


def test_a_kill_between_the_last_renames_does_not_need_overwrite(
    options: PrepareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("data.prepare.job.describe", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(options)
    assert Path(f"{options.output}.bin").is_file()
    assert not manifest_path(options.output).exists()
    prepare(options)
    manifest.verify(options.output, full=True)


def test_files_of_another_tool_and_damaged_manifests_are_not_replaced(
    options: PrepareOptions,
) -> None:
    with Path(f"{options.output}.idx").open("wb") as file:
        write_index(file, np.array([2], dtype=np.int32), np.dtype(np.uint16))
    Path(f"{options.output}.bin").write_bytes(b"\1\0\2\0")
    with pytest.raises(ValueError, match=r"holds web.bin and web.idx, which no manifest describes"):
        prepare(options)
    command = [options.output, "--create", "--vocab-size", "3", "--eos-id", "2"]
    assert describe(command) == 0
    with pytest.raises(ValueError, match=r"holds token files of another job \(tokenizer "):
        prepare(options)
    manifest_path(options.output).write_text("{")
    with pytest.raises(ValueError, match="holds token files whose manifest cannot be used"):
        prepare(options)
    prepare(replace(options, overwrite=True))
    assert describe(command) == 2, "describing is for files without a manifest"
    assert manifest.verify(options.output)["documents"] == 8


def test_each_prefix_is_looked_at_and_both_parts_keep_their_places(
    tmp_path: Path, options: PrepareOptions
) -> None:
    both = replace(options, heldout_output=str(tmp_path / "held"), heldout_fraction=0.5)
    prepare(both)
    swapped = replace(both, output=both.heldout_output, heldout_output=both.output)
    with pytest.raises(
        ValueError, match=r"they are the held-out part, now the training part.*; ou"
    ):
        prepare(swapped)
    alone = replace(options, output=both.heldout_output)
    with pytest.raises(ValueError, match=r"held-out part 0\.5 with seed 0, now none"):
        prepare(alone)


def test_the_held_out_prefix_of_another_unfinished_job_is_not_taken(
    tmp_path: Path, options: PrepareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = replace(options, heldout_output=str(tmp_path / "held"), heldout_fraction=0.5)
    _interrupt(monkeypatch, both)
    other = replace(both, output=str(tmp_path / "second"))
    with pytest.raises(ValueError, match=r"holds held.bin.partial of another unfinished job"):
        prepare(other)


def test_every_file_that_a_run_leaves_is_no_input(
    tmp_path: Path, options: PrepareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interrupt(monkeypatch, options)
    begun = _contents(options.output)
    prepare(options)
    made = manifest.verify(options.output)
    ngram.cached_fit(IndexedDataset(options.output), 320, max_tokens=99, sha256="x")
    for name, content in begun.items():  # as if they had been left
        Path(options.output).with_name(name).write_bytes(content)
    Path(f"{options.output}.errors.jsonl").write_text('{"line": 1}\n')
    for suffix in (
        "idx.partial",
        "labels",
        "labels.partial",
        "runs.partial",
        "run_counts.partial",
    ):
        Path(f"{options.output}.{suffix}").write_bytes(b"\xff")
    (tmp_path / "corpus" / ".web.ngram.host.1.tmp").write_bytes(b"\xff")
    names = {path.name.removeprefix("web.") for path in _own_files(options.output)}
    assert names == {*OWN_SUFFIXES, ".web.ngram.host.1.tmp"}
    assert prepare(options) == (made,), "found made: none of them is an input"
    # Nor are they for another output in the same folder.
    second = replace(options, output=str(tmp_path / "corpus" / "second"))
    assert prepare(second)[0]["documents"] == 8
    assert prepare(second)[0]["inputs"]["files"] == 8


def test_names_of_files_beside_a_prefix_are_made_in_one_place() -> None:
    made = re.compile(r"""["'][^"']*\{[a-z_.]*prefix\}\.[a-z]""")
    for folder in ("data", "train"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "prefix.py":
                assert not made.search(path.read_text()), f"{path}: use data/tokens/prefix.py"


def test_an_old_journal_and_an_old_manifest_are_gone_on_with(
    options: PrepareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the version before, which described no job and knew no largest id."""
    _interrupt(monkeypatch, options)
    journal = Path(f"{options.output}.journal")
    first, _, rest = journal.read_bytes().partition(b"\n")
    identity = json.loads(first.partition(b" ")[2])["identity"]
    content = json.dumps({"identity": identity}).encode()
    journal.write_bytes(b"%08x %b\n" % (zlib.crc32(content), content) + rest)
    assert _blocks_encoded(monkeypatch, options) == 5
    path = manifest_path(options.output)
    old = unseal(path.read_bytes())
    del old["largest_id"]
    path.write_bytes(seal(old))
    assert _blocks_encoded(monkeypatch, options) == 0


def test_a_damaged_output_of_the_same_job_is_made_again(options: PrepareOptions) -> None:
    prepare(options)
    good = _contents(options.output)
    path = Path(f"{options.output}.bin")
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    prepare(options)
    assert _contents(options.output) == good
