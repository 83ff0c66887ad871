"""What inputs are made of, told before anything is read; counts of what is left out; the same for both commands."""

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from data.formats import obstacles
from data.formats.input_files import Inputs, list_files
from data.formats.records import BadRecord
from data.prepare import __main__ as prepare_command
from data.prepare.identity import readings
from data.prepare.job import prepare
from data.prepare.options import PrepareOptions
from data.tokenizer import training
from data.tokenizer.sentencepiece_model import Tokenizer, train
from data.tokens.manifest import verify
from data.tokens.prefix import Roles

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "a.parquet": (b"PAR1", "is Parquet, which is not read"),
    "b.arrow": (b"ARROW1", "is Arrow, which is not read"),
    "c.tar.gz": (gzip.compress(b""), "is a tar archive, which is not read"),
    "d.jsonl.gz": (b"{}", "is not compressed with gzip, as its name says"),
    "e.jsonl": (gzip.compress(b"{}"), "is compressed with gzip; let its name end in .gz"),
    "f.txt": (POINTER.encode(), "is a git-lfs pointer"),
    "g.jsonl.zst": (POINTER.encode(), "is a git-lfs pointer"),
    "h.csv": (b"id,body\n1,a\n", "no column 'text' (columns: id, body)"),
    "i.json.bz2": (b"", "empty, as no compressed file is"),
    "j.txt": (b"PAR1\0\xff", "is Parquet, which is not read"),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    words = [f"a good document number {number}, and others\n" for number in range(100)]
    return train(words, tmp_path_factory.mktemp("tokenizer") / "t.model", 320)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(30):
        (tmp_path / f"in/{number:02}.txt").write_text(
            f"a good document number {number}, and others\n"
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in"


@pytest.fixture(params=["data.prepare", "data.tokenizer"])
def command(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Callable[..., int]:
    """Either command on --input in."""

    def start(*arguments: str, inputs: Sequence[str] = ("in",)) -> int:
        if request.param == "data.prepare":
            given = ["--output", "out/x", "--tokenizer", str(tokenizer.path)]
            return prepare_command.main([*given, *arguments, "--input", *inputs])
        given = ["--output", "out/t.model", "--vocab-size", "320", "--overwrite"]
        return training.main([*given, *arguments, "--input", *inputs])

    return start


def test_everything_that_cannot_be_read_is_told_at_the_start_and_counted_when_skipped(
    folder: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (content, _) in UNREADABLE.items():
        (folder / name).write_bytes(content)
    dataset = folder / "saved"
    dataset.mkdir()
    for name in ("state.json", "dataset_info.json", "data-00000-of-00001.arrow"):
        (dataset / name).write_text("{}")
    Path("empty").mkdir()
    assert command(inputs=["in", "empty"]) == 2
    head, *lines = capsys.readouterr().err.splitlines()
    assert "12 mistakes (go on without such inputs: --on-error skip):" in head
    expected = {f"in/{name}": why for name, (_, why) in UNREADABLE.items()}
    expected |= {"in/saved": "is a dataset of Hugging Face (Arrow)", "empty": "holds no document"}
    for path, why in expected.items():
        assert any(line.startswith(f"  {path}: ") and why in line for line in lines), (path, lines)
    assert not Path("out").exists()
    assert command("--on-error", "skip", inputs=["in", "empty"]) == 0
    said = capsys.readouterr().err
    assert "skipped records: 11 format, 1 unreadable" in said
    assert all(said.count(f"left out: {path}: ") == 1 for path in expected)
    assert "skipped in/" not in said, "each is named once"


@pytest.mark.parametrize("suffix", ["bin", "idx", "npy", "npz", "pt"])
def test_a_binary_file_that_is_named_is_refused_by_what_it_is(
    folder: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    Path(f"web.{suffix}").write_bytes(b"ab")
    assert command(inputs=["in", f"web.{suffix}"]) == 2
    said = capsys.readouterr().err
    assert f"web.{suffix}: {'belongs to token files' if suffix == 'idx' else 'is '}" in said
    if suffix == "bin":
        Path("web.idx").write_bytes(b"ab")
        assert command(inputs=["in", "web.bin"]) == 2
        assert "input=web.bin: belongs to token files" in capsys.readouterr().err


def test_all_mistakes_are_told_together(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--output", "out/", "--tokenizer", "none.model", "--workers", "0", "--seed", "3"]
    assert prepare_command.main([*arguments, "--input", "in", "gone", "in/00.txt"]) == 2
    head, *lines = capsys.readouterr().err.splitlines()
    assert head == "data.prepare: 6 mistakes:"
    for what in (
        "output=out/:",
        "tokenizer=none.model:",
        "workers=0:",
        "seed=3:",
        "input=gone:",
        "input=in/00.txt:",
    ):
        assert any(line.startswith(f"  {what}") for line in lines), what


def test_an_option_without_effect_is_refused(
    folder: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--text-field", "body") == 2
    assert "text_field=body: no input has fields (their formats: .txt)" in capsys.readouterr().err
    (folder / "a.jsonl").write_text('{"body": "x"}\n')
    assert command("--text-field", "body") == 0


@pytest.mark.parametrize("names", [["a.jsonl"], ["a.json", "a.csv"], []])
def test_the_real_reason_is_told_where_nothing_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., int],
    capsys: pytest.CaptureFixture[str], names: list[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for name in names:
        Path(f"in/{name}").write_text('{"body": 1}\n' if "json" in name else "text\n\n")
    assert command() == 2
    assert "in/a.json" in capsys.readouterr().err if names else "holds no document"
    assert command("--on-error", "skip") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "input=in: holds no document" in last
    assert "field" in last or not names


def test_both_commands_name_and_count_the_same_records(
    folder: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.jsonl").write_text(
        '{"text": "x"}\n{"body": 1}\n{"text": null}\n{"text": ""}\n{"text"\n'
    )
    (folder / "b.txt").write_bytes(b"\xff")
    (folder / "c.csv").write_text("text,id\na,1\nb\n")
    given = ["--input", "in", "--on-error", "skip", "--output"]
    assert prepare_command.main([*given, "out/x", "--tokenizer", str(tokenizer.path)]) == 0
    prepared = capsys.readouterr().err.splitlines()
    assert training.main([*given, "t.model", "--vocab-size", "320"]) == 0
    trained = capsys.readouterr().err.splitlines()
    named = [line for line in prepared if line.startswith("skipped in/")]
    assert len(named) == 5
    assert [line for line in trained if line.startswith("skipped in/")] == named
    counts = "skipped records: 1 csv, 1 empty, 1 encoding, 2 field, 1 json"
    assert any(line.startswith(counts) for line in prepared)
    assert counts in trained
    assert verify("out/x")["skipped"] == {
        "csv": 1,
        "empty": 1,
        "encoding": 1,
        "field": 2,
        "json": 1,
    }


def test_what_is_passed_over_stands_in_the_manifest_and_is_said(
    folder: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / ".hidden").write_text("x")
    (folder / ".git").mkdir()
    (folder / "deep/er").mkdir(parents=True)
    (folder / "deep/er/two\nlines.txt").write_text("x")
    (folder / "p.png").write_bytes(b"x")
    (folder / "above").symlink_to("..")
    (folder / "again.txt").symlink_to("00.txt")
    Path("in/t.model").write_bytes(tokenizer.path.read_bytes())
    arguments = ["--input", "in", "--output", "in/x", "--tokenizer", "in/t.model"]
    assert prepare_command.main(arguments) == 0
    said = capsys.readouterr().err
    assert (
        "passed over in folders: 1 binary by their suffix, 2 with hidden names, 1 links to folders, 1 token files or"
        " other outputs" in said
    )
    assert "under a second name (links): 1; their documents count twice" in said
    made = verify("in/x")
    assert made["documents"] == 32
    counted = {
        key: made["inputs"][key]
        for key in ("files", "passed_over", "hidden", "linked_folders", "own", "repeated")
    }
    assert counted == {
        "files": 32,
        "passed_over": 1,
        "hidden": 2,
        "linked_folders": 1,
        "own": 1,
        "repeated": 1,
    }
    assert made["inputs"]["formats"] == {".txt": 32}
    assert prepare_command.main(arguments) == 0
    assert verify("in/x") == made, "its own files among the inputs change no count"


def test_a_folder_that_may_not_be_entered_is_told_at_the_start(
    folder: Path,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder / "closed").mkdir()
    scan = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert command() == 2
    assert "in/closed: cannot be read (" in capsys.readouterr().err


def test_a_text_that_may_not_be_read_is_told_at_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = folder / "large.txt"
    large.write_text("x" * 5000)
    monkeypatch.setattr(os, "access", lambda path, _: not str(path).endswith("large.txt"))
    found = obstacles.obstacle(str(large), 5000, "text")
    assert isinstance(found, BadRecord)
    assert (found.kind, found.reason) == ("unreadable", "cannot be read (Permission denied)")


def test_a_long_text_is_not_opened_before_it_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "large.txt").write_text("x" * 5000)
    monkeypatch.setattr(obstacles, "open_regular", lambda path: pytest.fail(f"{path} opened"))
    assert obstacles.obstacle(str(folder / "large.txt"), 5000, "text") is None


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.py"])
def test_corpora_whose_formats_are_read_as_before_keep_their_fingerprint(
    folder: Path, tokenizer: Tokenizer, name: str
) -> None:
    content = b'{"text": "x"}\n'
    path = Path("one") / name
    path.parent.mkdir()
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    options = PrepareOptions(("one",), "out/x", str(tokenizer.path), show_progress=False)
    (made,) = prepare(options)
    status = path.stat()
    before = hashlib.sha256(json.dumps((2, tokenizer.sha256, "text", ())).encode())
    before.update(json.dumps((str(path), status.st_size, status.st_mtime_ns)).encode())
    assert made["fingerprint"] == before.hexdigest()


@pytest.mark.parametrize(
    ("name", "why"), [("a.json", r"\.json files are read differently since \(its records are read\)"),
                      ("a.txt", r"\.txt files .* \(a byte-order mark is removed\)"),
                      ("a.txt.gz", r"\.txt\.gz files .* \(was refused\)")]
)  # fmt: skip
def test_a_corpus_of_a_format_that_is_read_otherwise_now_loads_and_says_so_when_it_is_made_again(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"x") if name.endswith("gz") else b'{"text": "x"}')
    options = PrepareOptions(
        (str(path),), str(tmp_path / "x"), str(tokenizer.path), show_progress=False
    )
    with monkeypatch.context() as before:
        before.setattr("data.prepare.identity.changed_since_first", lambda _: "")
        prepare(options)
    assert verify(tmp_path / "x")["documents"] == 1
    with pytest.raises(
        ValueError,
        match=rf"holds token files of another job \({why}\)\. .*another output.*--overwrite",
    ):
        prepare(options)
    prepare(replace(options, overwrite=True))
    assert readings([".jsonl", ".jsonl.zst", "other"]) == {}


def test_the_same_file_under_two_names_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert Inputs.found(list_files([tmp_path], Roles((), ""))).repeated == 1
