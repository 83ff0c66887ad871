"""The files we write are safetensors files to the package itself, and their checksums are those of the disk."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from parallel.checkpoint.tensor_files import file_record, map_tensors, write_tensors

TENSORS = {
    "weight/embedding.weight": torch.arange(35, dtype=torch.float32).reshape(5, 7),
    "exp_avg/norm.weight": torch.full((3,), float("nan")),
    "weight/\u00e9": torch.randn(2, 3, 4).transpose(0, 2),
}


def test_the_package_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    record = write_tensors(path, TENSORS)
    found = load_file(path)
    assert found.keys() == TENSORS.keys()
    for key, tensor in TENSORS.items():
        assert torch.equal(found[key].view(torch.int32), tensor.contiguous().view(torch.int32))
    raw = path.read_bytes()
    assert record == {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    counted: list[int] = []
    assert file_record(path, counted.append) == record
    assert sum(counted) == len(raw)


def test_only_what_is_touched_of_a_mapped_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    large = torch.randn(4096, 4096)
    write_tensors(path, {"large": large})

    def mapped_kib() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("RssFile")).split()[1])

    before = mapped_kib()
    tensor = map_tensors(path, {"large": large.shape})["large"]
    assert torch.equal(tensor[100:200], large[100:200])
    assert mapped_kib() - before < 16 << 10  # of 64 MiB
    tensor[0, 0] += 1  # a private copy: the file stays
    assert torch.equal(map_tensors(path, {"large": large.shape})["large"], large)


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 7, b"\xff" * 99, b"\x10" + b"\x00" * 7 + b'{"a":1}         ']
)
def test_what_is_no_safetensors_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^bad\.safetensors: "):
        map_tensors(path, {"a": torch.Size([1])})


def test_tensors_that_are_not_as_the_index_says_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"half": torch.zeros(2, dtype=torch.float16), "a": torch.zeros(2)}, path)
    for key, shape, said in (
        ("absent", (2,), "absent"),
        ("half", (2,), "half is torch.float16"),
        ("a", (3,), r"a is torch.float32 \(2,\), the index says float32 \(3,\)"),
    ):
        with pytest.raises(ValueError, match=rf"^a\.safetensors: .*{said}"):
            map_tensors(path, {key: torch.Size(shape)})
