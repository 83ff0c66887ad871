"""Import and export of odd and hostile folders: a result or clear lines, never a traceback, never half a folder."""

import contextlib
import io
import itertools
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from model.huggingface.catalogue import BY_TYPE
from model.huggingface.foreign_keys import LENGTHS, OF_FILES, OF_THE_MODEL, REFUSED
from tests.unit.huggingface_folders import written_model
from tests.unit.reader_cases import OTHER_CASES, PLAIN, READER_CASES
from train.huggingface.export_model import main as export
from train.huggingface.folder import INDEX as SHARDS
from train.huggingface.folder import WHOLE
from train.huggingface.import_model import main as import_

# One case of every family.
CASES = {kind: (kind, changes) for kind, changes in (READER_CASES | OTHER_CASES).values()}
ODD: list[Any] = [
    None, [], [1], {}, {"a": 1}, "", "x", "\0", -1, 0, 1, 7, 2**40, 2**70, 1.5, float("nan"), float("inf"), True,
    False, [[]], ["sliding_attention"] * 4, {"rope_type": "yarn"}, {"full_attention": []}, "9" * 5000,
]  # fmt: skip
KEYS = sorted(
    {*LENGTHS, *OF_FILES, *OF_THE_MODEL, *REFUSED, "model_type", "architectures", "dtype", "torch_dtype"}
    | {"rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq", "partial_rotary_factor"}
    | {"original_max_position_embeddings", "max_position_embeddings", "order_of_interleaved_layers", "layer_switch"}
    | {row.theirs for family in BY_TYPE.values() for row in family.rows}
)  # fmt: skip


def there(output: Path) -> list[Path]:
    """What lies beside an output and in it."""
    found = []
    for folder in (output.parent, output):
        with contextlib.suppress(OSError):
            found += sorted(folder.iterdir())
    return found


def answer(command: Callable[[list[str]], int], output: Path, *arguments: str) -> str:
    """Why a command refuses, empty if it does not; its status fits, and nothing is left half done."""
    before = there(output)
    with contextlib.redirect_stderr(io.StringIO()) as file:
        status = command([*arguments, "--output", str(output)])
    said = file.getvalue()
    assert status in (0, 2)
    assert 0 < len(said) < 4000
    if status == 0:
        return ""
    assert there(output) == before, "nothing is written"
    assert all(line.startswith("train.") for line in said.splitlines()), said
    return said


def imported(source: Path, output: Path) -> str:
    return answer(import_, output, "--model", str(source))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        name: written_model(folder / name, kind, **{**PLAIN, **changes})
        for name, (kind, changes) in CASES.items()
    }


def check_config(source: Path, changes: dict[str, Any], folder: Path) -> None:
    """A config.json with these keys is read or refused; what was read can be written."""
    changed, ours, back = (folder / name for name in ("theirs", "ours", "back"))
    changed.mkdir(exist_ok=True)
    shutil.rmtree(ours, ignore_errors=True)
    shutil.rmtree(back, ignore_errors=True)
    (changed / WHOLE).unlink(missing_ok=True)
    (changed / WHOLE).symlink_to(source / WHOLE)
    config = json.loads((source / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**config, **changes}))
    if not imported(changed, ours):
        said = answer(export, back, "--checkpoint", str(ours), "--tokenizer", "none")
        assert said == "" or "give --context-length N" in said


@settings(max_examples=settings().max_examples // 5)
@given(
    name=st.sampled_from(sorted(CASES)),
    changes=st.dictionaries(st.sampled_from(KEYS), st.sampled_from(ODD), min_size=1, max_size=2),
)
def test_any_value_of_any_key_is_read_or_refused(
    models: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    changes: dict[str, Any],
) -> None:
    check_config(models[name], changes, tmp_path_factory.getbasetemp())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_odd_values_of_every_key_are_read_or_refused(
    models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    # Every third pair of key and value in each model; the models begin at different ones.
    pairs = list(itertools.product(KEYS, ODD))
    for key, value in pairs[list(CASES).index(name) % 3 :: 3]:
        check_config(models[name], {key: value}, tmp_path)


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def folder_for(path: Path) -> None:
    path.unlink()
    path.mkdir()


def rewritten(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Change the tensors of a folder."""

    def spoil(folder: Path) -> None:
        tensors = load_file(folder / WHOLE)
        change(tensors)
        save_file(tensors, folder / WHOLE)

    return spoil


def cut(keep: int) -> Callable[[Path], object]:
    return lambda folder: (folder / WHOLE).write_bytes((folder / WHOLE).read_bytes()[:keep])


def header(length: int, text: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / WHOLE).write_bytes(struct.pack("<Q", length) + text)


def index(files: Any) -> Callable[[Path], object]:
    return lambda folder: (folder / SHARDS).write_text(json.dumps({"weight_map": files}))


def twice(folder: Path) -> None:
    names = list(load_file(folder / WHOLE))
    shutil.copy(folder / WHOLE, folder / "other.safetensors")
    index({names[0]: WHOLE, names[1]: "other.safetensors"})(folder)


def text(name: str, content: str | bytes) -> Callable[[Path], object]:
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(raw)


def loop(name: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(name)

    return spoil


def link(name: str, target: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return spoil


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def file_instead(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("{}")


NORM, HEAD = "model.norm.weight", "lm_head.weight"
# How the folder of a Llama is spoilt, and what the answer says; empty: it can be read all the same.
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "an empty folder": (emptied, "config.json: no such file"),
    "no folder": (lambda folder: shutil.rmtree(folder), "config.json: no such file"),
    "a file instead of a folder": (file_instead, "Not a directory"),
    "no config.json": (lambda folder: (folder / "config.json").unlink(), "no such file"),
    "a folder for config.json": (lambda folder: folder_for(folder / "config.json"), "config.json"),
    "config.json is a list": (text("config.json", "[]"), "must hold an object"),
    "config.json is cut": (text("config.json", '{"a": '), "cannot be read"),
    "config.json is deep": (text("config.json", '{"a":' + "[" * 100_000), "cannot be read"),
    "config.json is bytes": (text("config.json", b"\xff\xfe{}"), "config.json"),
    "config.json is a pipe": (lambda folder: pipe(folder / "config.json"), "not a file"),
    "config.json is endless": (link("config.json", "/dev/zero"), "not a file"),
    "config.json links to itself": (loop("config.json"), "config.json"),
    "no weights": (lambda folder: (folder / WHOLE).unlink(), "has neither"),
    "weights link to nothing": (link(WHOLE, "gone"), "has neither"),
    "weights are a pipe": (lambda folder: pipe(folder / WHOLE), "has neither"),
    "weights are a folder": (lambda folder: folder_for(folder / WHOLE), "has neither"),
    "weights are empty": (text(WHOLE, b""), WHOLE),
    "weights end in the header": (cut(100), WHOLE),
    "weights end before the last byte": (lambda folder: cut((folder / WHOLE).stat().st_size - 1)(folder), WHOLE),
    "a header that is too long": (header(2**60, b"{}"), WHOLE),
    "a header that is no JSON": (header(2, b"xx"), WHOLE),
    "a header without tensors": (header(2, b"{}"), "is missing"),
    "a tensor too few": (rewritten(lambda tensors: tensors.pop(NORM)), f"{NORM}: is missing"),
    "a tensor too many": (rewritten(lambda tensors: tensors.update(x=torch.zeros(2))), "x: has no place"),
    "another shape": (rewritten(lambda tensors: tensors.update({NORM: torch.zeros(47)})), "of shape (47,)"),
    "a scalar": (rewritten(lambda tensors: tensors.update({HEAD: torch.zeros(())})), "of shape ()"),
    "integers": (rewritten(lambda tensors: tensors.update({NORM: torch.zeros(48, dtype=torch.int32)})), "is I32"),
    "half precision": (rewritten(lambda tensors: tensors.update({NORM: torch.zeros(48).half()})), ""),
    "an index of nothing": (index({}), "is missing"),
    "an index that is none": (index([]), "has no weight_map"),
    "an index of numbers": (index({NORM: 1}), "cannot be read"),
    "an index with a file that is not there": (index({NORM: "model-00002-of-00002.safetensors"}), "cannot be read"),
    "an index that leads outside": (index({NORM: "../other/model.safetensors"}), "which is no file in it"),
    "an index with an absolute path": (index({NORM: "/etc/passwd"}), "which is no file in it"),
    "an index of the folder itself": (index({NORM: ".."}), "cannot be read"),
    "a tensor in two files": (twice, "is in two files"),
    "an index that is no JSON": (text(SHARDS, "{"), "cannot be read"),
    "a tokenizer that is none": (text("tokenizer.json", "{}"), ""),
    "a tokenizer of noise": (text("tokenizer.model", bytes(range(256))), ""),
    "a tokenizer that is a pipe": (lambda folder: pipe(folder / "tokenizer.json"), ""),
    "tokenizer settings that are a list": (text("tokenizer_config.json", "[]"), ""),
    "generation settings that are a list": (text("generation_config.json", "[]"), "must hold an object"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_spoilt_folder_is_read_or_refused_in_clear_lines(
    case: str, models: dict[str, Path], tmp_path: Path
) -> None:
    spoil, says = HOSTILE[case]
    source = shutil.copytree(models["llama"], tmp_path / "theirs")
    spoil(source)
    said = imported(source, tmp_path / "ours")
    assert says in said
    assert bool(says) == bool(said)
    if not said:
        # A tokenizer that is not understood here goes along as it came.
        assert answer(export, tmp_path / "back", "--checkpoint", str(tmp_path / "ours")) == ""


OUTPUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a folder that holds something": (lambda folder: folder / "theirs", "exists already"),
    "a file": (lambda folder: folder / "theirs" / WHOLE, "exists already"),
    "below a file": (lambda folder: folder / "theirs" / WHOLE / "ours", "Not a directory"),
    "where nobody can write": (lambda folder: folder / "/proc/1/none/ours", ""),
    "a name that is too long": (lambda folder: folder / ("n" * 300), "too long"),
    "the root": (lambda folder: folder / "/", "exists already"),
}  # fmt: skip


@pytest.mark.parametrize("case", OUTPUTS)
def test_an_output_that_cannot_be_made_is_refused_before_anything_changes(
    case: str, models: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(models["llama"], tmp_path / "theirs")
    place, says = OUTPUTS[case]
    said = imported(tmp_path / "theirs", place(tmp_path))
    assert said
    assert says in said
    assert imported(tmp_path / "theirs", tmp_path / "ours") == ""
    given = ["--checkpoint", str(tmp_path / "ours"), "--tokenizer", "none"]
    # The output is looked at before the bytes of the checkpoint.
    for weights in (tmp_path / "ours").glob("*.safetensors"):
        weights.write_bytes(bytes(weights.stat().st_size))
    said = answer(export, place(tmp_path), *given)
    assert said
    assert says in said
    assert "sha256" not in said.lower()
    assert "damaged" not in said


def test_an_empty_folder_and_the_one_the_command_runs_in_are_filled(
    models: dict[str, Path], tmp_path: Path, monkeypatch: Any
) -> None:
    neighbour = tmp_path / "ours.partial"
    neighbour.mkdir()
    (neighbour / "mine").touch()
    (tmp_path / "ours").mkdir()
    (tmp_path / "link").symlink_to("linked")
    assert imported(models["llama"], tmp_path / "link") == ""
    assert (tmp_path / "linked" / "state.json").is_file()
    monkeypatch.chdir(tmp_path / "ours")
    assert imported(models["llama"], Path()) == ""
    assert (tmp_path / "ours" / "state.json").is_file()
    assert (neighbour / "mine").is_file()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--family", "nope"], "family=nope: there are"), (["--family", "gpt_oss"], "gpt_oss"),
        (["--dtype", "int8"], "dtype=int8: must be one of"), (["--context-length", "-5"], "context-length=-5: must be"),
        (["--context-length", str(2**70)], "context-length="), (["--shard-bytes", "0"], "shard-bytes=0: must be"),
        (["--tokenizer", "/etc/passwd"], "tokenizer=/etc/passwd"),
    ],
)  # fmt: skip
def test_an_odd_option_is_refused_with_the_rule(
    options: list[str], says: str, models: dict[str, Path], tmp_path: Path
) -> None:
    assert imported(models["llama"], tmp_path / "ours") == ""
    said = answer(export, tmp_path / "back", "--checkpoint", str(tmp_path / "ours"), *options)
    assert says in said
