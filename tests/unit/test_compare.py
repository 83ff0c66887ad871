"""`ropewalk compare`: the first step and the first tensor where two runs part, against faults planted in made runs."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.files import seal
from parallel.checkpoint import pieces
from parallel.checkpoint.index import DamagedCheckpoint
from parallel.checkpoint.pieces import stored_tensors
from parallel.checkpoint.tensor_files import write_tensors
from tests.unit.made_run import Row, made_evaluations, made_steps, write_run
from train.checkpointing.state import FORMAT, RunState, read_index
from train.compare.checkpoints import compare_checkpoints, order
from train.compare.command import main
from train.compare.comparison import compare
from train.compare.rows import compare_rows
from train.compare.sides import read_side
from train.compare.sizes import size_of, unequal

SHAPES = {
    "head.weight": (8, 4),
    "norm.weight": (4,),
    "layers.10.norm.weight": (4,),
    "layers.2.attention.q_proj.weight": (4, 4),
    "layers.2.norm.weight": (4,),
    "embedding.weight": (8, 4),
}
IN_ORDER = [
    "embedding.weight",
    "layers.2.norm.weight",
    "layers.2.attention.q_proj.weight",
    "layers.10.norm.weight",
    "norm.weight",
    "head.weight",
]


def made_tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    kinds = ("weight", "exp_avg")
    return {
        f"{kind}/{name}": torch.randn(shape, generator=generator)
        for kind in kinds
        for name, shape in SHAPES.items()
    }


def write_checkpoint(
    folder: Path, tensors: Mapping[str, Tensor], *, num_files: int = 1, **state: Any
) -> Path:
    """A checkpoint whose tensors are dealt to files as that many ranks would write them."""
    folder.mkdir(parents=True)
    files, records = {}, {}
    for rank in range(num_files):
        name, own = f"rank_{rank:05d}.safetensors", list(tensors)[rank::num_files]
        files[name] = write_tensors(folder / name, {key: tensors[key] for key in own})
        for key in own:
            records[key] = {"file": name, "shape": list(tensors[key].shape), "dtype": "float32"}
    index = {"format": FORMAT, "files": files, "tensors": records}
    (folder / "index.json").write_bytes(seal(index))
    (folder / "state.json").write_bytes(
        seal({"format": FORMAT, **asdict(RunState(step=400, **state))})
    )
    return folder


def write_side(folder: Path, steps: Sequence[Row]) -> Path:
    write_run(folder, list(steps), made_evaluations(list(steps)) if steps else [])
    shutil.rmtree(folder / "checkpoints")  # it holds no checkpoint that can be read
    return folder


def found_in(a: Path, b: Path) -> dict[str, Any]:
    return compare(read_side(a), read_side(b))


def with_loss(steps: Sequence[Row], step: int, loss: float) -> list[Row]:
    return [row | {"loss": loss} if row["step"] == step else row for row in steps]


def test_the_first_step_that_differs_is_named_with_the_size(tmp_path: Path) -> None:
    steps = made_steps()[40:100]
    true = steps[20]["loss"]
    other = with_loss(steps, steps[20]["step"], true + 2**-20)
    other = with_loss(other, steps[30]["step"], steps[30]["loss"] + 1.0)
    found = found_in(write_side(tmp_path / "a", steps), write_side(tmp_path / "b", other))
    assert not found["equal"]
    (difference,) = found["steps"]["differences"]
    assert found["steps"]["first_different"] == steps[20]["step"] == difference["step"]
    assert (difference["key"], difference["kind"]) == ("loss", "result")
    assert difference["absolute"] == pytest.approx(2**-20, rel=1e-9)
    assert difference["relative"] == pytest.approx(2**-20 / true, rel=1e-6)
    assert difference["units"] == pytest.approx(2**-20 / float(np.spacing(np.float32(true))), 1e-9)
    assert difference["largest"] == pytest.approx(1.0)


def test_times_memory_and_traffic_do_not_part_runs() -> None:
    measured = {"step_seconds": 2.0, "seconds": {"data": 1.0}, "mfu": 0.3, "peak_memory_bytes": 7}
    measured |= {"tokens_per_second": 9.0, "sequence_bytes_received": {"full": {"mean": 3.0}}}
    row = {"step": 1, "loss": 2.0, "windows": {"full_nope": 40}}
    found = compare_rows([row | measured], [row | dict.fromkeys(measured, 5.5)])
    assert found["differences"] == []
    assert found["compared"] == 1


def test_data_come_before_schedule_and_results_at_one_step() -> None:
    row = {"step": 4, "loss": 2.0, "valid_tokens": 9, "learning_rate": 1.0, "stage": "a"}
    row |= {"sources": {"web": {"tokens": 5, "loss": 2.0}}, "skipped": False, "list": [{"x": 1}]}
    other = {"step": 4, "loss": None, "valid_tokens": 8, "learning_rate": 2.0, "stage": "b"}
    other |= {"sources": {"web": {"tokens": 4, "loss": 1.0}}, "skipped": True, "list": [{"x": 2}]}
    found = compare_rows([row], [other])["differences"]
    assert [one["key"] for one in found] == [
        *("sources.web.tokens", "valid_tokens", "learning_rate", "stage"),
        *("list[0].x", "loss", "skipped", "sources.web.loss"),
    ]
    assert [one["absolute"] for one in found] == [1.0, 1.0, 1.0, None, 1.0, None, None, 1.0]


def test_odd_values_of_a_damaged_log_are_compared() -> None:
    odd = [10**400, 1e308, -1e308, float("inf"), "", [], {}, None, True]
    for a in odd:
        for b in odd:
            rows = [{"step": 1, "loss": a}], [{"step": 1, "loss": b}]
            assert (compare_rows(*rows)["differences"] == []) == (
                a == b or [] in (a, b) or {} in (a, b)  # those have no value to compare
            )


def test_only_common_steps_and_keys_are_compared() -> None:
    a = [{"step": step, "loss": float(step)} for step in range(1, 8)]
    b = [{"step": step, "loss": float(step), "z_loss": 1.0} for step in range(5, 20)]
    found = compare_rows(a, b)
    assert (found["steps"], found["compared"], found["differences"]) == ([5, 7], 3, [])
    assert compare_rows(a, b[5:])["steps"] is None


def test_evaluations_are_compared_by_task() -> None:
    row = {"step": 4, "stage": "a", "tokens_seen": 9, "cells": [{"hits": 1}]}
    rows = [row | {"task": "passkey"}, row | {"task": "held_out"}]
    found = compare_rows(rows, [rows[0] | {"cells": [{"hits": 2}]}, row])
    assert [(one["task"], one["key"]) for one in found["differences"]] == [
        ("passkey", "cells[0].hits")
    ]
    assert found["compared"] == 2


def test_sizes_are_those_of_float32() -> None:
    one = np.array([1.0, -2.0], np.float32)
    after = np.nextafter(one, np.float32(9.0))
    size = size_of(one, after)
    assert (size.units, size.absolute) == (1.0, 2**-23)
    odd = np.array([np.nan, 0.0, np.inf, np.nan], np.float32)
    assert unequal(odd, np.array([np.nan, -0.0, np.inf, 1.0], np.float32)).tolist() == [
        False, False, False, True,
    ]  # fmt: skip
    assert size_of(odd[2:], one).absolute == np.inf


def test_the_first_tensor_in_the_order_of_the_model_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 28)  # seven elements: no shape is a multiple of it
    tensors = made_tensors()
    assert sorted(tensors, key=order) == [
        f"{kind}/{name}" for kind in ("weight", "exp_avg") for name in IN_ORDER
    ]
    changed = {key: tensor.clone() for key, tensor in tensors.items()}
    changed["exp_avg/embedding.weight"][0, 0] = torch.nan
    changed["weight/head.weight"][7, 3] += 1.0
    changed["weight/layers.2.attention.q_proj.weight"][1, 3] *= 1.5
    changed["weight/layers.2.attention.q_proj.weight"][3, 0] += 9.0
    a = write_checkpoint(tmp_path / "a", tensors, num_files=1)
    b = write_checkpoint(tmp_path / "b", changed, num_files=5)
    found = compare_checkpoints(a, b)
    assert (found["tensors"], found["equal_files"], found["state"]) == (12, 0, [])
    first, second, third = found["differences"]
    assert first["tensor"] == "weight/layers.2.attention.q_proj.weight"
    assert (first["elements"], first["different"], first["first"]) == (16, 2, 7)
    true = tensors["weight/layers.2.attention.q_proj.weight"]
    assert (first["a"], first["b"]) == (float(true[1, 3]), float(true[1, 3] * 1.5))
    assert first["absolute"] == pytest.approx(9.0, rel=1e-6)
    assert (second["tensor"], second["first"]) == ("weight/head.weight", 31)
    assert (third["tensor"], third["absolute"]) == ("exp_avg/embedding.weight", np.inf)


def test_tensors_that_one_side_lacks_and_other_shapes_differ(tmp_path: Path) -> None:
    tensors = made_tensors()
    fewer = {key: value for key, value in tensors.items() if "layers.10" not in key}
    fewer["weight/norm.weight"] = torch.zeros(5)
    a = write_checkpoint(tmp_path / "a", tensors)
    b = write_checkpoint(tmp_path / "b", fewer)
    assert compare_checkpoints(a, b)["differences"] == [
        {"tensor": "weight/layers.10.norm.weight", "only_in": "A"},
        {"tensor": "weight/norm.weight", "shapes": [[4], [5]]},
        {"tensor": "exp_avg/layers.10.norm.weight", "only_in": "A"},
    ]


def test_files_of_equal_checksums_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = made_tensors()
    changed = tensors | {"exp_avg/head.weight": tensors["exp_avg/head.weight"] + 1}
    a = write_checkpoint(tmp_path / "a", tensors, num_files=3)
    b = write_checkpoint(tmp_path / "b", changed, num_files=3)
    read = list[str]()
    whole = pieces.StoredTensor.pieces
    monkeypatch.setattr(
        pieces.StoredTensor, "pieces", lambda one: read.append(one.path.name) or whole(one)
    )
    found = compare_checkpoints(a, b)
    assert [one["tensor"] for one in found["differences"]] == ["exp_avg/head.weight"]
    assert (found["equal_files"], set(read)) == (8, {"rank_00000.safetensors"})


def test_pieces_are_the_tensors_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    tensors = made_tensors()
    folder = write_checkpoint(tmp_path / "a", tensors, num_files=2)
    index = read_index(folder)
    stored = stored_tensors(folder, index)
    for key, tensor in tensors.items():
        assert np.array_equal(np.concatenate(list(stored[key].pieces())), tensor.flatten().numpy())
    path = folder / "rank_00001.safetensors"
    raw = path.read_bytes()
    for damaged in (raw[:-1], raw[:20], b"\xff" * 8 + raw[8:], raw.replace(b"F32", b"F16", 1)):
        path.write_bytes(damaged)
        with pytest.raises(DamagedCheckpoint, match="rank_00001"):
            stored_tensors(folder, index)
    path.unlink()
    with pytest.raises(DamagedCheckpoint, match="is missing"):
        stored_tensors(folder, index)


def test_the_oldest_common_checkpoint_that_differs_is_shown(tmp_path: Path) -> None:
    tensors = made_tensors()
    changed = tensors | {"weight/norm.weight": torch.zeros(4)}
    for name, kept, cursor in (("a", [100, 200, 300], 5), ("b", [200, 300, 900], 6)):
        write_side(tmp_path / name, made_steps()[:9])
        for step in kept:
            different = name == "b" and step == 300
            write_checkpoint(
                tmp_path / name / "checkpoints" / f"step_{step:08d}",
                changed if different else tensors,
                cursor={"drawn": [cursor if different else 1]},
                layout={"tensor": 1 if name == "a" else 2},
            )
    found = found_in(tmp_path / "a", tmp_path / "b")
    first, second = found["checkpoints"]
    assert (first["differences"], first["state"]) == ([], [])
    assert [one["tensor"] for one in second["differences"]] == ["weight/norm.weight"]
    assert second["state"] == [["cursor.drawn", "[1]", "[6]"]]
    assert second["machine"] == [["layout.tensor", "1", "2"]]
    named = tmp_path / "b" / "checkpoints" / "step_00000200"
    assert len(found_in(tmp_path / "a", named)["checkpoints"]) == 1
    assert found_in(named, tmp_path / "a")["equal"]


def test_configuration_data_and_machine_are_told_apart(tmp_path: Path) -> None:
    steps = made_steps()[:9]
    a, b = write_side(tmp_path / "a", steps), write_side(tmp_path / "b", steps)
    (b / "config.yaml").write_text((a / "config.yaml").read_text().replace(": 192", ": 200"))
    start = json.loads((a / "starts.jsonl").read_text())
    later = start | {"step": 5, "world_size": 8}
    start["versions"] = start["versions"] | {"torch": "2.12.0"}
    start["sources"] = start["sources"] | {"code": {"documents": 7}}
    (b / "starts.jsonl").write_text(f"{json.dumps(start)}\n{json.dumps(later)}\n")
    found = found_in(a, b)
    assert found["equal"]  # none of these is a number of training
    assert found["configuration"] == [["model.hidden_size", "192", "200"]]
    assert found["machine"] == [["world_size", "2", "8"]]  # of the start that took the last step
    other = write_side(tmp_path / "c", with_loss(steps, 4, 1.0))
    found = found_in(b, other)
    assert found["machine"] == [["versions.torch", "2.12.0", "2.13.0"]]
    assert ["sources.code.documents", "7", "8000"] in found["data"]


def test_status_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = made_steps()[:60]
    a = write_side(tmp_path / "a", steps)
    b = write_side(tmp_path / "b", with_loss(steps, 50, float("inf")))
    assert main([str(a), str(a / "metrics.jsonl")]) == 0
    assert "all are equal" in capsys.readouterr().out
    assert main([str(a), str(b)]) == 1
    said = capsys.readouterr().out
    assert "they part at step 50" in said
    assert said.splitlines()[-1] == "different: steps from step 50 on (result: loss)"
    assert main([str(a), str(b), "--json"]) == 1
    found = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))
    assert found["steps"]["first_different"] == 50
    empty = write_side(tmp_path / "empty", [])
    for words in ([a, empty], [a, tmp_path], [a, tmp_path / "none"]):
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, words)))
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_help_imports_no_torch() -> None:
    code = (
        "import sys, train.compare.command as c\n"
        "try: c.main(['--help'])\n"
        "except SystemExit: sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode
        == 0
    )
