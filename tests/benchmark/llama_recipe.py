"""Memory, time and rotation of the recipe for Llama 3.1 8B: computed from its configuration, nothing is measured.

    PYTHONPATH=.:tests python tests/benchmark/llama_recipe.py

Writes docs/recipes.json and prints the tables of docs/recipes.md, which tests/unit/test_recipes.py compares with it.
"""

import json
import math
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.files import seal
from model.config import ModelConfig
from model.flops import training_flops
from model.huggingface.catalogue import family_of
from train.checkpointing.state import FORMAT, RunState
from train.configuration.compose import compose_run
from train.configuration.description import stage_memory
from train.configuration.schema import RunConfig
from train.schedule.rope_base import bases_by_kind
from train.schedule.stages import build_schedule

RECORD = Path(__file__).resolve().parents[2] / "docs/recipes.json"
# What meta-llama/Llama-3.1-8B has in its config.json.
PUBLISHED = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "max_position_embeddings": 131072, "tie_word_embeddings": False, "hidden_act": "silu",
    "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}  # fmt: skip
# Llama 3 8B before it: 8k, no scaling.
BEFORE = PUBLISHED | {"rope_scaling": None, "max_position_embeddings": 8192}
WORLDS = (8, 16, 32, 64)
# A plausible rate, 40 % of the peak of an H100: 1.1B and 3.3B reached 51 to 54 % on one H200 (docs/benchmarks.md).
FLOPS_A_GPU = 400e12
# Of pairs in a head of 128, those that docs/recipes.md shows.
PAIRS = (0, 29, 32, 35, 63)


def imported(folder: Path, config: dict[str, Any]) -> str:
    """A checkpoint of a published configuration, as far as `--check` looks at it: no tensors."""
    read = family_of(config).read(config)
    state = RunState(
        stage="imported",
        model=asdict(read.model),
        rope_base=bases_by_kind(read.model, read.rope_base),
        context_length=read.context_length,
        origin={"config": config},
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_bytes(seal({"format": FORMAT, **asdict(state)}))
    return str(folder)


def numbers(run: RunConfig) -> dict[str, Any]:
    """Bytes of a rank and hours by number of GPUs and stage; wavelengths of pairs by base and scaling."""
    schedule, mistakes = build_schedule(run)
    assert schedule is not None, mistakes
    rows = []
    for world in WORLDS:
        for stage in schedule.stages:
            memory, length = stage_memory(run, stage, world), stage.shape.sequence_length
            flops = training_flops(run.model, [length]) / length * stage.num_steps
            seconds = flops * stage.shape.batch_tokens / (world * FLOPS_A_GPU)
            rows.append(
                {
                    "gpus": world,
                    "stage": stage.name,
                    "data_ranks": stage.parallel.topology(world).data,
                    "model_bytes": memory.model,
                    "activation_bytes": memory.activations,
                    "hours": seconds / 3600,
                }
            )
    forms = {
        "released: base 5e5, llama3 scaling": (5e5, True),
        "without its scaling": (5e5, False),
        "base 8e6 instead": (8e6, False),
        "base 8e6 beside its scaling": (8e6, True),
    }
    waves = {
        name: wavelengths(run.model, base, scaled=scaled) for name, (base, scaled) in forms.items()
    }
    return {"memory": rows, "wavelengths": waves}


def wavelengths(model: ModelConfig, base: float, *, scaled: bool) -> list[float]:
    """Tokens in which each of PAIRS turns once, with llama3 scaling by its published formula or without."""
    rope = model.kinds["full_rope"].rope
    found = []
    for pair in PAIRS:
        wave = 2 * math.pi * base ** (2 * pair / model.head_dim)
        turns = rope.original_length / wave
        share = (turns - rope.low_frequency) / (rope.high_frequency - rope.low_frequency)
        kept = min(1.0, max(0.0, share))
        found.append(wave / (kept + (1 - kept) / rope.factor) if scaled else wave)
    return found


def tables(record: dict[str, Any]) -> dict[str, str]:
    """The tables of docs/recipes.md by name, made of the numbers alone."""
    memory = [
        "| GPUs | data ranks | stage | weights, gradients, optimizer | activations | in all | hours |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in record["memory"]:
        gigabytes = [row["model_bytes"] / 1e9, row["activation_bytes"] / 1e9]
        gigabytes.append(sum(gigabytes))
        cells = " | ".join(f"{value:.1f} GB" for value in gigabytes)
        memory.append(
            f"| {row['gpus']} | {row['data_ranks']} | `{row['stage']}` | {cells} | {row['hours']:.0f} |"
        )
    waves = [
        "| | " + " | ".join(f"pair {pair}" for pair in PAIRS) + " |",
        "|---" * (len(PAIRS) + 1) + "|",
    ]
    for name, tokens in record["wavelengths"].items():
        waves.append(f"| {name} | " + " | ".join(f"{wave:,.0f}" for wave in tokens) + " |")
    return {"memory": "\n".join(memory), "wavelengths": "\n".join(waves)}


def main() -> None:
    """Write the record and print the tables."""
    with tempfile.TemporaryDirectory() as folder:
        resume = f"checkpoint.resume={imported(Path(folder), PUBLISHED)}"
        record = numbers(compose_run(["experiment=llama31_128k", resume]))
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    sys.stdout.write("\n\n".join(tables(record).values()) + "\n")


if __name__ == "__main__":
    main()
