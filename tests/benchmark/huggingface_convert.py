"""Time and peak memory of moving a model of 1B to and from Hugging Face's form.

    PYTHONPATH=.:tests python tests/benchmark/huggingface_convert.py

A random Llama-shaped model in bfloat16 is written, imported, and exported again by the two commands, each a
process of its own. Peak memory is what the kernel says of that process, mapped pages of files included; what it
has before it does anything, the imported packages, is measured too.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from model.config import ModelConfig
from model.flops import parameter_count
from model.huggingface.families.llama import LLAMA
from parallel.checkpoint.tensor_files import Entry
from train.huggingface.folder import write_model
from train.huggingface.import_model import parameter_shapes

OUTPUT = Path("outputs/benchmarks/huggingface_convert.json")
FOLDER = Path("outputs/benchmarks/huggingface_convert")
MODEL = ModelConfig(
    num_layers=16,
    hidden_size=2048,
    intermediate_size=8192,
    num_heads=32,
    num_kv_heads=8,
    head_dim=64,
    vocab_size=128_256,
    layer_pattern=["full_rope"],
    block="sequential",
    norm="rmsnorm",
)
SHARD_BYTES = 1_000_000_000


def write_random(folder: Path) -> int:
    """Llama 3.2 1B's shape with random weights; returns the bytes of its largest tensor."""
    folder.mkdir(parents=True)
    config = LLAMA.write(MODEL, 500_000.0, 131_072) | {"dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = parameter_shapes(MODEL)
    entries = {
        link.theirs[0]: Entry(torch.bfloat16, shapes[link.ours[0]])
        for link in LLAMA.links(MODEL, list(shapes))
    }

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for name, entry in entries.items():
            yield name, torch.randn(entry.shape, dtype=torch.bfloat16)

    write_model(folder, entries, tensors(), SHARD_BYTES)
    return max(entry.bytes for entry in entries.values())


def run(*arguments: str) -> tuple[float, float]:
    """Seconds and peak bytes of a command."""
    sys.stderr.write(f"  {' '.join(arguments)}\n")
    before = time.perf_counter()
    command = [sys.executable, "-m", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return time.perf_counter() - before, usage.ru_maxrss * 1024.0


def same(one: Path, other: Path) -> bool:
    """Whether both folders hold the same tensors, byte by byte."""
    names = sorted(path.name for path in one.glob("*.safetensors"))
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def main() -> None:
    """Measure and print."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    theirs, ours, back = (FOLDER / name for name in ("theirs", "ours", "back"))
    largest = write_random(theirs)
    shards = ["--shard-bytes", str(SHARD_BYTES)]
    idle = [run(f"train.{way}_huggingface", "--help") for way in ("import", "export")]
    done = [
        run("train.import_huggingface", "--model", str(theirs), "--output", str(ours), *shards),
        run("train.export_huggingface", "--checkpoint", str(ours), "--output", str(back), *shards),
    ]
    found = [
        {"command": way, "seconds": seconds, "peak_bytes": peak, "idle_bytes": rest}
        for way, (seconds, peak), (_, rest) in zip(("import", "export"), done, idle, strict=True)
    ]
    print(
        f"{parameter_count(MODEL) / 1e9:.2f}B parameters, bfloat16 there and float32 here; the largest tensor is "
        f"{2 * largest / 1e9:.2f} GB in float32"
    )
    print(f"{'command':8} {'seconds':>8} {'peak GB':>8} {'GB before any work':>19}")
    for row in found:
        peak, idle = row["peak_bytes"] / 1e9, row["idle_bytes"] / 1e9
        print(f"{row['command']:8} {row['seconds']:8.1f} {peak:8.2f} {idle:19.2f}")
    equal = "" if same(theirs, back) else "NOT "
    print(f"the tensors that came back are {equal}the same, byte by byte")
    OUTPUT.write_text(json.dumps(found, indent=1) + "\n")
    shutil.rmtree(FOLDER)


if __name__ == "__main__":
    main()
