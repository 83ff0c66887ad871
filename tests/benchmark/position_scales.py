"""What a scale of queries costs: a forward and backward at 4,096 tokens, beside the same model without.

    PYTHONPATH=.:tests python tests/benchmark/position_scales.py

All layers have the scale. The models take turns; `plain` is measured twice, so the second row shows the noise. CPU time
of the process, so other programs disturb it little. Prints the table and writes
`outputs/benchmarks/position_scales.json`.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from model.at_step import AtStep
from model.attention.core import choose_core
from model.config import ModelConfig
from model.initialization import initialize
from model.layer_pattern import KindConfig
from model.packed_layout import PackedLayout
from model.position.scales.drope import DropeScale
from model.position.scales.llama4 import Llama4Scale
from model.position.scales.methods import AnyScale
from model.position.scales.ministral3 import Ministral3Scale
from model.position.scales.none import NoScale
from model.position.scales.ssmax import SsmaxScale
from model.position.scales.swan import SwanScale
from model.transformer import Transformer

OUTPUT = Path("outputs/benchmarks/position_scales.json")
TOKENS, ROUNDS, BASE = 4096, 7, 1e4
MODEL = ModelConfig(
    num_layers=4,
    hidden_size=512,
    intermediate_size=1360,
    num_heads=8,
    num_kv_heads=2,
    head_dim=64,
    window=1024,
)
SCALES: dict[str, AnyScale] = {
    "plain": NoScale(),
    "plain again": NoScale(),
    "llama4": Llama4Scale(floor_scale=1024),
    "ministral3": Ministral3Scale(original_length=1024),
    "swan": SwanScale(),
    "ssmax": SsmaxScale(),
    "drope": DropeScale(1024),
}
Numbers = dict[str, list[float]]


def built(scale: AnyScale) -> tuple[Transformer, AtStep]:
    """A model whose layers all have the scale, and its settings at the benchmark's length."""
    kinds = {kind: KindConfig(position_scale=scale) for kind in set(MODEL.layer_pattern)}
    config = replace(MODEL, kinds=kinds)
    model = Transformer(config, choose_core("auto", "cpu", torch.float32, config.head_dim))
    initialize(model, config, seed=0)
    return model, AtStep.of(config, BASE, (TOKENS,))


def seconds(model: Transformer, at: AtStep) -> float:
    """CPU seconds of one forward and backward."""
    tokens_T = torch.arange(TOKENS) % MODEL.vocab_size
    layout = PackedLayout.from_lengths([TOKENS])
    model.zero_grad()
    started = time.process_time()
    model.loss(model(tokens_T, layout, at), tokens_T.roll(-1)).total.backward()
    return time.process_time() - started


def turns(names: list[str]) -> Iterator[list[str]]:
    """The names, each round beginning with another one."""
    for round_number in range(ROUNDS):
        first = round_number % len(names)
        yield names[first:] + names[:first]


def table(numbers: Numbers) -> str:
    """One row a scale: median of its times, and of their ratios to the plain model's of the same round."""
    lines = [f"{'scale':<12}{'seconds':>9}{'x plain':>9}"]
    for name, own in numbers.items():
        ratio = median(a / b for a, b in zip(own, numbers["plain"], strict=True))
        lines.append(f"{name:<12}{median(own):>9.2f}{ratio:>9.3f}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, write the file."""
    torch.set_num_threads(1)
    models = {name: built(scale) for name, scale in SCALES.items()}
    numbers: Numbers = {name: [] for name in SCALES}
    for model, at in models.values():
        seconds(model, at)  # the first run of each allocates
    for names in turns(list(SCALES)):
        for name in names:
            numbers[name].append(seconds(*models[name]))
    sys.stdout.write(table(numbers))
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
