"""The same token files for every number of workers and after every kill; bad records are named."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.formats import records
from data.formats.readers import reader_of
from data.prepare import worker_pool
from data.prepare.__main__ import main
from data.prepare.append_journal import AppendJournal
from data.prepare.block_encoder import EncodedBlock, encode_block
from data.prepare.job import prepare
from data.prepare.options import PrepareOptions
from data.tokenizer.sentencepiece_model import Tokenizer, train
from data.tokens import manifest
from data.tokens.indexed_dataset import IndexedDataset

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "\u03b7\u03c4\u03b1", "\U0001f600"]


def _text(number: int) -> str:
    return " ".join(WORDS[(number * 31 + i * i) % 8] for i in range(3 + number * 7 % 90)) + "\n"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "t.model"
    return train([_text(i) for i in range(100)], path, 320)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text files and JSON lines; 430 documents."""
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(30):
        (folder / f"{i:02}.txt").write_text(_text(i))
    lines = [json.dumps({"text": _text(i)}) for i in range(30, 430)]
    (folder / "rest.jsonl").write_text("\n".join(lines))
    return folder


def _options(corpus: Path, output: Path, tokenizer: Tokenizer, **changes: object) -> PrepareOptions:
    fields = {"inputs": (str(corpus),), "output": str(output), "tokenizer": str(tokenizer.path)}
    return PrepareOptions(**{**fields, "show_progress": False, **changes})  # type: ignore[arg-type]


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_documents_end_with_the_end_token_and_decode_to_their_text(
    tmp_path: Path, corpus: Path, tokenizer: Tokenizer
) -> None:
    (made,) = prepare(_options(corpus, tmp_path / "new" / "folder" / "x", tokenizer))
    dataset = IndexedDataset(tmp_path / "new" / "folder" / "x")
    assert dataset.num_documents == made["documents"] == 430
    assert dataset.dtype == np.uint16
    for number in (0, 29, 30, 429):
        tokens = dataset.read(number, 0, dataset.document_length(number))
        assert tokens[-1] == tokenizer.eos_id
        assert tokenizer.eos_id not in tokens[:-1]
        assert tokenizer.decode(tokens) == _text(number)
    assert made["tokenizer"]["sha256"] == tokenizer.sha256
    files = sorted(_files(tmp_path / "new" / "folder"))
    assert files == ["x.bin", "x.crc", "x.idx", "x.manifest.json"]
    assert manifest.verify(tmp_path / "new" / "folder" / "x", full=True) == made


def test_files_are_the_same_for_every_number_of_workers_and_size_of_blocks(
    tmp_path: Path, corpus: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    heldout = {"heldout_fraction": 0.2, "commit_bytes": 50_000}
    results = []
    for workers in (1, 2, 3):
        monkeypatch.setattr(records, "BLOCK_BYTES", 2_000 * workers)
        folder = tmp_path / str(workers)
        changes = {"workers": workers, "heldout_output": str(folder / "h"), **heldout}
        prepare(_options(corpus, folder / "x", tokenizer, **changes))
        results.append(_files(folder))
    assert results[0] == results[1] == results[2]


def test_every_document_is_in_exactly_one_of_both_outputs(
    tmp_path: Path, corpus: Path, tokenizer: Tokenizer
) -> None:
    changes = {"heldout_fraction": 0.2, "heldout_output": str(tmp_path / "h")}
    prepare(_options(corpus, tmp_path / "x", tokenizer, **changes))
    texts = []
    for name in ("x", "h"):
        dataset = IndexedDataset(tmp_path / name)
        for number in range(dataset.num_documents):
            tokens = dataset.read(number, 0, dataset.document_length(number))
            texts.append(tokenizer.decode(tokens))
    assert sorted(texts) == sorted(_text(i) for i in range(430))
    assert 40 < IndexedDataset(tmp_path / "h").num_documents < 130


# Runs data.prepare and kills its own process, all at once, at the third commit.
KILLED = """
import os, signal, sys
from data.prepare.__main__ import main
from data.prepare.append_journal import AppendJournal
commit, commits = AppendJournal.commit, []
def commit_and_die(journal, state):
    commit(journal, state)
    commits.append(state)
    if len(commits) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
AppendJournal.commit = commit_and_die
main(sys.argv[1:])
"""


def test_killed_in_the_middle_and_run_again_gives_the_same_bytes(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    source = tmp_path / "big.jsonl"
    with source.open("w") as file:
        for i in range(8_000):
            file.write(json.dumps({"text": _text(i)}) + "\n")
    prepare(_options(source, tmp_path / "whole" / "x", tokenizer))
    output = tmp_path / "killed" / "x"
    arguments = ["--input", str(source), "--output", str(output), "--workers", "2"]
    arguments += ["--tokenizer", str(tokenizer.path), "--commit-bytes", "200000"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    assert not Path(f"{output}.bin").exists()
    command = [sys.executable, "-m", "data.prepare", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert _files(tmp_path / "killed") == _files(tmp_path / "whole")


def _interrupt(monkeypatch: pytest.MonkeyPatch, options: PrepareOptions, commits: int) -> None:
    """Run until `commits` commits are made, then fail."""
    count = 0
    original = AppendJournal.commit

    def commit(self: AppendJournal, state: dict[str, object]) -> None:
        nonlocal count
        original(self, state)
        count += 1
        if count == commits:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AppendJournal, "commit", commit)
        with pytest.raises(KeyboardInterrupt):
            prepare(options)


def _blocks_parsed(monkeypatch: pytest.MonkeyPatch, options: PrepareOptions) -> int:
    """Prepare, and count the blocks that were tokenised."""
    count = 0

    def counting(*arguments: Any) -> EncodedBlock:
        nonlocal count
        count += 1
        return encode_block(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(worker_pool, "encode_block", counting)
        prepare(options)
    return count


@pytest.mark.parametrize(
    "damage", ["none", "flipped", "truncated", "unfinished", "journal", "other tokenizer"]
)
def test_finished_work_is_kept_where_it_is_good_and_redone_where_it_is_not(
    tmp_path: Path,
    corpus: Path,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    monkeypatch.setattr(records, "BLOCK_BYTES", 2_000)
    total = _blocks_parsed(monkeypatch, _options(corpus, tmp_path / "whole" / "x", tokenizer))
    options = _options(corpus, tmp_path / "again" / "x", tokenizer, commit_bytes=9_000)
    before = options
    if damage == "other tokenizer":
        other = train([_text(i) for i in range(50)], tmp_path / "other.model", 325)
        before = _options(corpus, tmp_path / "again" / "x", other, commit_bytes=9_000)
    _interrupt(monkeypatch, before, 4)
    if damage == "other tokenizer":
        with pytest.raises(
            ValueError, match=r"holds an unfinished job of other options .*tokenizer"
        ):
            prepare(options)
        options = replace(options, overwrite=True)
    partial = tmp_path / "again" / "x.bin.partial"
    content = bytearray(partial.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        partial.write_bytes(content)
    if damage == "truncated":
        partial.write_bytes(content[: len(content) // 2])
    if damage == "journal":  # a number of documents that is not the one that was written
        journal = tmp_path / "again" / "x.journal"
        before_damage, after_damage = journal.read_bytes().rsplit(b'"documents": ', 1)
        journal.write_bytes(before_damage + b'"documents": 9' + after_damage)
    if damage == "unfinished":
        partial.write_bytes(content + b"tail of a write that was never committed")
    parsed = _blocks_parsed(monkeypatch, options)
    assert _files(tmp_path / "again") == _files(tmp_path / "whole")
    if damage in ("none", "unfinished", "journal"):
        assert parsed < 0.7 * total
    elif damage in ("flipped", "truncated"):
        assert 0.7 * total < parsed < total
    else:
        assert parsed == total


def test_a_second_run_finds_everything_made(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = tmp_path / "a.txt"
    source.write_text("first")
    options = _options(source, tmp_path / "x", tokenizer)
    prepare(options)
    stamp = (tmp_path / "x.bin").stat().st_mtime_ns
    prepare(options)
    assert (tmp_path / "x.bin").stat().st_mtime_ns == stamp


BAD = [
    '{"text": "good"}',
    '{"text": "bad',
    '{"other": 1}',
    '{"text": ""}',
    '{"text": null}',
    '{"text": "good too"}',
]


def test_skipping_names_each_bad_record_and_counts_them(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(BAD))
    output = tmp_path / "out" / "x"
    arguments = ["--input", str(source), "--output", str(output), "--on-error", "skip"]
    assert main([*arguments, "--tokenizer", str(tokenizer.path)]) == 0
    errors = capsys.readouterr().err
    for line in (2, 3, 5):
        assert f"skipped {source}:{line}: " in errors
    assert "skipped records: 1 empty, 2 field, 1 json" in errors
    assert manifest.verify(output)["skipped"] == {"empty": 1, "field": 2, "json": 1}
    listed = [json.loads(line) for line in Path(f"{output}.errors.jsonl").read_text().splitlines()]
    assert [(entry["line"], entry["kind"]) for entry in listed] == [
        (2, "json"),
        (3, "field"),
        (4, "empty"),
        (5, "field"),
    ]
    assert IndexedDataset(output).num_documents == 2


def test_failing_stops_at_the_first_bad_record_and_skipping_goes_on_from_there(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(BAD))
    arguments = ["--input", str(source), "--output", str(tmp_path / "x")]
    arguments += ["--tokenizer", str(tokenizer.path)]
    for workers in ("1", "2"):
        assert main([*arguments, "--workers", workers]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"data.prepare: {source}:2: bad JSON")
        assert not (tmp_path / "x.bin").exists()
    assert main([*arguments, "--on-error", "skip"]) == 0
    assert main(arguments) == 2, "made with skipped records, asked for none"


def test_a_full_disk_is_one_clear_line_and_the_next_run_goes_on(
    tmp_path: Path,
    corpus: Path,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare(_options(corpus, tmp_path / "whole" / "x", tokenizer))
    options = _options(corpus, tmp_path / "full" / "x", tokenizer, commit_bytes=9_000)
    original = os.fsync
    count = 0

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ValueError, match=r"no space left on the disk .* run the same command"):
            prepare(options)
    prepare(options)
    assert _files(tmp_path / "full") == _files(tmp_path / "whole")


def test_mistakes_are_one_clear_line(
    tmp_path: Path, corpus: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.txt").write_text("only one")
    model = str(tokenizer.path)
    cases = [
        (["--input", str(tmp_path / "empty")], model, "holds no document"),
        (["--input", str(tmp_path / "gone")], model, "no such file or folder"),
        (["--input", str(corpus)], str(tmp_path / "no.model"), "no such file; train one with"),
        (["--input", str(corpus), "--workers", "0"], model, "workers=0: must be from 1 to 1024"),
        (["--input", str(corpus), "--heldout-fraction", "0.1"], model, "give both or none"),
        (
            [
                "--input",
                str(tmp_path / "one"),
                *("--heldout-fraction", "0.01", "--heldout-output", str(tmp_path / "h")),
            ],
            model,
            "none of 1 documents falls into",
        ),
    ]
    for arguments, tokenizer_path, message in cases:
        output = ["--output", str(tmp_path / "x"), "--tokenizer", tokenizer_path]
        assert main([*arguments, *output]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("data.prepare: ")
        assert message in last
    assert list(tmp_path.glob("x*")) == []


def test_two_processes_on_one_output_are_refused(
    tmp_path: Path, corpus: Path, tokenizer: Tokenizer
) -> None:
    other = AppendJournal(tmp_path / "x.journal", [], "other")
    other.resume()
    with pytest.raises(ValueError, match="another process is at work"):
        prepare(_options(corpus, tmp_path / "x", tokenizer))
    other.close()


def test_a_worker_that_dies_is_reported(
    tmp_path: Path, corpus: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(worker_pool.WorkerDied, match="a worker process ended with exit code 1"):
        prepare(_options(corpus, tmp_path / "x", tokenizer, workers=2))


def test_a_worker_killed_in_the_middle_of_a_result_is_one_clear_line_and_the_next_run_goes_on(
    tmp_path: Path,
    corpus: Path,
    tokenizer: Tokenizer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut_off = tmp_path / "python"
    cut_off.write_text("#!/bin/sh\nprintf '\\200\\005\\225\\377'\nkill -9 $$\n")
    cut_off.chmod(0o755)
    arguments = ["--input", str(corpus), "--output", str(tmp_path / "x"), "--workers", "2"]
    arguments += ["--tokenizer", str(tokenizer.path)]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(cut_off))
        assert main(arguments) == 2
    errors = capsys.readouterr().err
    last = errors.splitlines()[-1]
    assert last.startswith("data.prepare: a worker process ended with exit code -9 (-9: killed"), (
        repr(errors)
    )
    assert main(arguments) == 0


def test_at_most_two_blocks_a_worker_are_in_flight(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "a.txt"
    path.write_text(_text(1))
    (block,) = reader_of(str(path)).blocks(str(path), records.START)
    asked = 0

    def blocks() -> Iterator[tuple[records.Block, int]]:
        nonlocal asked
        for number in range(30):
            asked += 1
            yield block, number

    with worker_pool.WorkerPool(tokenizer, records.Fields(), 2) as pool:
        for number, (_, tag, encoded) in enumerate(pool.encode(blocks())):
            assert tag == number
            assert asked <= number + 4
            assert tokenizer.decode(encoded.tokens) == _text(1)
    assert asked == 30
