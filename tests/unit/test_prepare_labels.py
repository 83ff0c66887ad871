"""data.prepare with labels: which tokens have one is what the records say, after every kill and in every part."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.formats.readers import read_documents
from data.formats.records import BadRecord, Fields
from data.manifest import main as describe
from data.prepare.__main__ import main
from data.prepare.append_journal import AppendJournal
from data.prepare.job import prepare
from data.prepare.options import PrepareOptions
from data.sources import TokenSource, open_source
from data.tokenizer.sentencepiece_model import Tokenizer, train
from data.tokens import manifest
from data.tokens.prefix import OWN_SUFFIXES

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]


def _text(number: int) -> str:
    return " ".join(WORDS[(number * 31 + i * i) % 6] for i in range(1 + number * 7 % 19)) + "\n"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train([_text(i) for i in range(100)], tmp_path_factory.mktemp("tokenizer") / "t", 320)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts and completions, also as segments; some prompts are empty. One block a file."""
    folder = tmp_path_factory.mktemp("records")
    for first in range(0, 60, 10):
        lines = []
        for i in range(first, first + 10):
            prompt, text = _text(i) if i % 5 else "", _text(i + 1)
            segments = [(prompt, False), (text, True), ("", True), ("| " + prompt, i % 2 == 0)]
            turns = [{"text": part, "label": label} for part, label in segments]
            lines.append(json.dumps({"prompt": prompt, "text": text, "turns": turns}))
        (folder / f"{first:02}.jsonl").write_text("\n".join(lines))
    return folder


def _options(records: Path, output: Path, tokenizer: Tokenizer) -> PrepareOptions:
    return PrepareOptions(
        inputs=(str(records),),
        output=str(output),
        tokenizer=str(tokenizer.path),
        unlabelled_field="prompt",
        show_progress=False,
        commit_bytes=1,
    )


def _labels(source: TokenSource) -> list[list[tuple[int, bool]]]:
    """(token, whether it has a label) of every document."""
    lengths = source.document_lengths(np.arange(source.num_documents)).tolist()
    found = []
    for document, length in enumerate(lengths):
        mask = source.label_mask(document, 0, length)
        assert mask is not None
        assert source.count_labels(document, 0, length) == mask[1:].sum()
        pairs = zip(source.read(document, 0, length).tolist(), mask.tolist(), strict=True)
        found.append(list(pairs))
    return found


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_parts_are_tokenised_apart_and_the_end_token_goes_with_the_last(
    tmp_path: Path, records: Path, tokenizer: Tokenizer
) -> None:
    options = _options(records, tmp_path / "x", tokenizer)
    (made,) = prepare(options)
    found = _labels(open_source("x", str(tmp_path / "x"), full=True))
    for i, document in enumerate(found):
        before = tokenizer.encode(_text(i) if i % 5 else "").tolist()
        text = tokenizer.encode(_text(i + 1)).tolist()
        after = [*text, tokenizer.eos_id]
        assert document == [(t, False) for t in before] + [(t, True) for t in after]
    assert made["labelled_tokens"] == sum(label for document in found for _, label in document)
    assert made["version"] == manifest.VERSION_WITH_LABELS
    segments = replace(
        options, output=str(tmp_path / "s"), unlabelled_field=None, segments_field="turns"
    )
    prepare(segments)
    for i, document in enumerate(_labels(open_source("s", str(tmp_path / "s")))):
        last = tokenizer.encode("| " + (_text(i) if i % 5 else "")).tolist()
        tail = [(t, i % 2 == 0) for t in [*last, tokenizer.eos_id]]
        assert document == [*found[i][:-1], *tail]


@pytest.mark.parametrize(
    "fields", [{}, {"text_field": None, "unlabelled_field": None, "segments_field": "turns"}]
)
def test_files_are_the_same_after_a_kill_for_every_number_of_workers_and_in_two_parts(
    tmp_path: Path,
    records: Path,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, str | None],
) -> None:
    whole = replace(_options(records, tmp_path / "whole" / "x", tokenizer), **fields)
    prepare(whole)
    commits = []
    original = AppendJournal.commit

    def commit(self: AppendJournal, state: dict[str, object]) -> None:
        original(self, state)
        commits.append(state)
        if len(commits) == 3:
            raise KeyboardInterrupt

    killed = replace(whole, output=str(tmp_path / "killed" / "x"), workers=2)
    with monkeypatch.context() as patch:
        patch.setattr(AppendJournal, "commit", commit)
        with pytest.raises(KeyboardInterrupt):
            prepare(killed)
    assert {"x.runs.partial", "x.run_counts.partial"} <= set(_files(tmp_path / "killed"))
    prepare(killed)
    assert _files(tmp_path / "killed") == _files(tmp_path / "whole")

    parts = replace(
        whole,
        output=str(tmp_path / "p"),
        heldout_output=str(tmp_path / "h"),
        heldout_fraction=0.3,
    )
    prepare(parts)
    together = [_labels(open_source(n, str(tmp_path / n))) for n in ("p", "h")]
    assert all(together)
    expected = _labels(open_source("x", whole.output))
    assert sorted([*together[0], *together[1]]) == sorted(expected)


def test_files_without_labels_are_those_of_earlier_versions_and_labels_do_not_stay(
    tmp_path: Path, records: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    options = _options(records, tmp_path / "x", tokenizer)
    plain = replace(options, unlabelled_field=None, text_field="text")
    (made,) = prepare(replace(plain, output=str(tmp_path / "plain")))
    assert made["version"] == 2
    assert set(made["files"]) == {"bin", "idx", "crc"}
    assert not {"labelled_tokens", "unlabelled_field"} & {*made, *made["inputs"]}
    prepare(options)
    with pytest.raises(ValueError, match="unlabelled field 'prompt', now ''"):
        prepare(plain)
    Path(f"{plain.output}.runs.partial").write_bytes(b"left by a killed job")
    prepare(replace(plain, overwrite=True))
    left = {path.name for path in tmp_path.iterdir() if path.name.startswith("x.")}
    assert left == {"x.bin", "x.idx", "x.crc", "x.manifest.json"}
    for suffix in ("bin", "idx", "crc"):
        assert (
            Path(f"{options.output}.{suffix}").read_bytes()
            == (tmp_path / f"plain.{suffix}").read_bytes()
        )
    source = open_source("x", plain.output)
    assert source.label_mask(0, 0, 3) is None
    assert source.count_labels(0, 0, 3) == 2


def test_the_manifest_says_the_share_and_notices_labels_that_are_not_its_own(
    tmp_path: Path, records: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "x"
    given = ["--input", str(records), "--output", str(output), "--tokenizer", str(tokenizer.path)]
    assert main([*given, "--unlabelled-field", "prompt"]) == 0
    made = manifest.load(output)
    share = made["labelled_tokens"] / made["tokens"]
    words = f"{made['tokens']} tokens, {made['labelled_tokens']} of them ({share:.1%}) with a label"
    assert f"60 documents, {words}\n" in capsys.readouterr().err
    assert describe([str(output)]) == 0
    assert words in capsys.readouterr().err
    path = tmp_path / "x.labels"
    whole = path.read_bytes()
    for content, why in (
        (whole[:-1] + b"\x7f", "damaged between byte 0"),
        (whole[:-4], "expected"),
        (None, "no such file"),
    ):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        assert describe([str(output)]) == 2
        assert why in (said := capsys.readouterr().err)
        assert said.count("\n") == 1
        path.write_bytes(whole)
    other = tmp_path / "y"
    for suffix in ("bin", "idx", "labels"):
        (tmp_path / f"y.{suffix}").write_bytes((tmp_path / f"x.{suffix}").read_bytes())
    create = [str(other), "--create", "--vocab-size", "320", "--eos-id", "1"]
    assert describe(create) == 0, "of another tool, with labels"
    assert words in capsys.readouterr().err
    (tmp_path / "y.labels").unlink()
    assert describe([*create, "--overwrite"]) == 0
    (tmp_path / "y.labels").write_bytes(whole)
    capsys.readouterr()
    assert describe([str(other)]) == 2
    assert "the manifest does not describe it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("record", "fields", "reason"),
    [
        ({"text": "b"}, Fields("text", "a"), "no field 'a' (fields: text)"),
        ({"text": "b", "a": 3}, Fields("text", "a"), "field 'a' is int, not a string"),
        ({"text": "", "a": "x"}, Fields("text", "a"), "the text is empty"),
        ({"text": "b", "a": "\ud800"}, Fields("text", "a"), "lone surrogate at character 0"),
        ({"s": "x"}, Fields("", segments="s"), "field 's' is str, not a list of segments"),
        ({"s": []}, Fields("", segments="s"), "the text is empty"),
        ({"s": [3]}, Fields("", segments="s"), "s[0] is int, not an object with text and label"),
        ({"s": [{"text": "x", "label": 1}]}, Fields("", segments="s"), "s[0].label is int"),
        ({"s": [{"label": True}]}, Fields("", segments="s"), "s[0].text is null, not a string"),
    ],
)
def test_records_that_do_not_say_their_labels_are_bad(
    tmp_path: Path, record: dict[str, object], fields: Fields, reason: str
) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(record))
    (bad,) = read_documents([str(tmp_path / "x.jsonl")], fields=fields)
    assert isinstance(bad, BadRecord)
    assert bad.reason.startswith(reason)


def test_columns_of_a_table_and_nested_fields_are_parts_too(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('q,text\nWho?," ""I"", he said"\n,Alone\n')
    first, second = read_documents([str(tmp_path / "x.csv")], fields=Fields("text", "q"))
    assert (first.text, first.parts) == ('Who? "I", he said', ((4, False), (13, True)))
    assert (second.text, second.parts) == ("Alone", ((5, True),))
    (tmp_path / "x.json").write_text('[{"a": {"q": "?", "t": "!"}}]')
    (nested,) = read_documents([str(tmp_path / "x.json")], fields=Fields("a.t", "a.q"))
    assert nested.parts == ((1, False), (1, True))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--segments-field", "s", "--text-field", "t"], "holds the whole text; omit text_field"),
        (["--unlabelled-field", "text"], "unlabelled_field=text: is the text field; name another"),
        (["--unlabelled-field", ""], "unlabelled_field=: is empty; name a field, or omit it"),
        (["--unlabelled-field", "q"], "x.csv: no column 'q' (columns: a, text)"),
        (["--segments-field", "s"], "x.csv: a column holds no list of segments"),
    ],
)
def test_options_that_cannot_be_followed_are_refused_in_one_line(
    tmp_path: Path,
    tokenizer: Tokenizer,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    says: str,
) -> None:
    (tmp_path / "x.csv").write_text("a,text\n1,2\n")
    given = ["--input", str(tmp_path / "x.csv"), "--output", str(tmp_path / "x")]
    assert main([*given, "--tokenizer", str(tokenizer.path), *options]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_text_without_fields_has_labels_everywhere_and_no_field_is_refused(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    (tmp_path / "a.txt").write_text("a whole file")
    alone = _options(tmp_path / "a.txt", tmp_path / "out" / "x", tokenizer)
    with pytest.raises(ValueError, match="unlabelled_field=prompt: no input has fields"):
        prepare(alone)
    (tmp_path / "b.jsonl").write_text('{"prompt": "Who? ", "text": "I"}\n')
    prepare(replace(alone, inputs=(str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl"))))
    whole, second = _labels(open_source("x", alone.output))
    assert all(label for _, label in whole)
    assert not second[0][1]
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix == ".partial"]
    assert "labels" in OWN_SUFFIXES
