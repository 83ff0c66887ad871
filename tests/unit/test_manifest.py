"""A changed byte, a missing file or a wrong count never gets past the check at start-up or, where only some
blocks are checked then, past the first reading."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.files import seal, unseal, write_durably
from data.manifest import main
from data.tokens import manifest
from data.tokens.indexed_dataset import IndexedDataset, write_index
from data.tokens.prefix import manifest_path
from data.tokens.token_file import DamagedData

DETAILS = {
    "tokenizer": {"file": "", "sha256": ""},
    "skipped": {},
    "vocab_size": 500,
    "eos_id": 2,
}


def _write(prefix: Path, described: manifest.Manifest) -> None:
    write_durably(manifest_path(prefix), seal(described))


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    sizes = np.array([100, 1, 399], dtype=np.int32)
    path = tmp_path / "corpus"
    with Path(f"{path}.idx").open("wb") as file:
        write_index(file, sizes, np.dtype(np.uint16))
    Path(f"{path}.bin").write_bytes(np.arange(500, dtype=np.uint16).tobytes())
    _write(path, manifest.describe(path, DETAILS))
    return path


def test_good_files_pass(prefix: Path) -> None:
    assert manifest.verify(prefix)["tokens"] == 500
    assert manifest.verify(prefix, full=True)["documents"] == 3


@pytest.mark.parametrize("name", ["bin", "idx", "crc", "manifest.json"])
@pytest.mark.parametrize("at", [0, 1 / 3, 2 / 3, 1])
def test_one_flipped_bit_is_refused_in_one_line_that_names_the_file(
    prefix: Path, name: str, at: float
) -> None:
    path = Path(f"{prefix}.{name}")
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(bytes(content))
    said = "not JSON|damaged" if name == "manifest.json" else "damaged between byte 0 and"
    with pytest.raises(ValueError, match=rf"corpus\.{name}: ({said})") as error:
        manifest.verify(prefix)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["bin", "idx", "crc", "manifest.json"])
def test_a_truncated_or_absent_file_is_refused_by_name(prefix: Path, name: str) -> None:
    path = Path(f"{prefix}.{name}")
    whole = path.read_bytes()
    for content in (whole[:-2], whole[:1], b"", b"\xff\x00" * 99):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"corpus\.{name}: "):
            manifest.verify(prefix)
    path.unlink()
    with pytest.raises(ValueError, match=rf"corpus\.{name}: no such file"):
        manifest.verify(prefix)


def test_a_truncated_file_is_refused_with_both_sizes(prefix: Path) -> None:
    path = Path(f"{prefix}.bin")
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match="expected 1000 bytes, found 998"):
        manifest.verify(prefix)


def test_a_flip_that_the_spot_check_skips_is_found_when_it_is_read(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "BLOCK_BYTES", 64)
    monkeypatch.setattr(manifest, "READ_BYTES", 64)
    monkeypatch.setattr(manifest, "PAGE_BYTES", 32)
    _write(prefix, manifest.describe(prefix, DETAILS))
    path = Path(f"{prefix}.bin")
    good = path.read_bytes()
    late = []
    for byte in range(0, 1000, 7):
        path.write_bytes(good[:byte] + bytes([good[byte] ^ 16]) + good[byte + 1 :])
        try:
            page_bytes = manifest.verify(prefix)["page_bytes"]
        except ValueError:
            continue
        late.append(byte)
        dataset = IndexedDataset(prefix, page_bytes=page_bytes)
        begin = byte // 32 * 32
        message = rf"corpus\.bin: damaged between byte {begin} and byte {min(begin + 32, 1000)} "
        with pytest.raises(DamagedData, match=message):
            dataset.tokens(byte // 2, byte // 2 + 1)
        # What lies in other pages is read as ever.
        before = dataset.tokens(0, begin // 2)
        assert before.tolist() == list(range(begin // 2))
    assert len(late) > 80


def test_large_files_are_spot_checked_and_fully_checked_on_request(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "BLOCK_BYTES", 10)
    described = manifest.load(prefix)
    described["files"]["bin"] = manifest.describe_file(Path(f"{prefix}.bin"))
    assert len(described["files"]["bin"]["block_crc32"]) == 100
    _write(prefix, described)
    path = Path(f"{prefix}.bin")
    good = path.read_bytes()
    refused = []
    for block in range(100):
        path.write_bytes(
            good[: block * 10] + bytes([good[block * 10] ^ 1]) + good[block * 10 + 1 :]
        )
        try:
            manifest.verify(prefix)
        except ValueError:
            refused.append(block)
        with pytest.raises(ValueError, match=f"damaged between byte {block * 10} and"):
            manifest.verify(prefix, full=True)
    assert 2 <= len(refused) <= manifest.SPOT_BLOCKS
    assert refused[0] == 0
    assert refused[-1] == 99


def test_the_list_of_blocks_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "BLOCK_BYTES", 1)
    path = tmp_path / "long"
    path.write_bytes(bytes(20_000))
    described = manifest.describe_file(path)
    assert described["block_bytes"] == 8
    assert len(described["block_crc32"]) == 2_500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no such file; prepare the corpus again, or describe"),
        ("not json", "not JSON"),
        ("{}", "not a manifest of token files"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_missing_or_foreign_manifest_is_refused(
    prefix: Path, content: str | None, message: str
) -> None:
    path = manifest_path(prefix)
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        manifest.verify(prefix)


def test_wrong_counts_and_versions_are_refused(prefix: Path) -> None:
    good = unseal(manifest_path(prefix).read_bytes())
    for key, value, message in (("tokens", 7, "says tokens=7"), ("version", 9, "version 9")):
        _write(prefix, {**good, key: value})
        with pytest.raises(ValueError, match=message):
            manifest.verify(prefix)
    manifest_path(prefix).write_text(json.dumps({**good, "version": 1}))
    with pytest.raises(manifest.OtherVersion, match="version 1, expected 2"):
        manifest.verify(prefix)


def test_command_line_describes_files_of_another_tool(prefix: Path) -> None:
    manifest_path(prefix).unlink()
    assert main([str(prefix)]) == 2
    assert main([str(prefix), "--create", "--vocab-size", "500", "--eos-id", "2"]) == 0
    assert main([str(prefix), "--full"]) == 0


def test_an_option_of_create_without_create_is_refused_by_name(
    prefix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(prefix), "--eos-id", "2", "--overwrite"])
    assert ended.value.code == 2
    assert "--eos-id, --overwrite" in capsys.readouterr().err.splitlines()[-1]
