"""What each position method and form of attention costs: a training step at 4,096 tokens, beside the plain model.

    PYTHONPATH=.:tests python tests/benchmark/attention_forms.py [FORM ...]

The plain model has a layer with a window and a full layer, both with RoPE; a form is in both. A step is a forward and a
backward. Plain and form take turns, and the order of a pair changes from round to round: the ratio is the median over
the pairs, with the quartiles. `FLOPs` is the ratio of `model.flops.training_flops`; `over` is measured by FLOPs.
CPU time of the process, so other programs disturb it little. Row `plain` is the plain model beside itself: the noise.
Prints the table and writes `outputs/benchmarks/attention_forms.json`.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from model.at_step import AtStep
from model.attention.core import choose_core
from model.config import ModelConfig
from model.flops import training_flops
from model.initialization import initialize
from model.layer_pattern import KindConfig
from model.packed_layout import PackedLayout
from model.position.dynamic_ntk import DynamicNtkRope
from model.position.fourier import Fourier
from model.position.fourier_table import FourierRotation
from model.position.linear import LinearRope
from model.position.llama3 import Llama3Rope
from model.position.longrope import LongRope
from model.position.methods import RopeMethod
from model.position.ntk import NtkRope
from model.position.rope import Rope
from model.position.scales.drope import DropeScale
from model.position.scales.llama4 import Llama4Scale
from model.position.scales.methods import AnyScale
from model.position.scales.ministral3 import Ministral3Scale
from model.position.scales.ssmax import SsmaxScale
from model.position.scales.swan import SwanScale
from model.position.yarn import YarnRope
from model.transformer import Transformer

OUTPUT = Path("outputs/benchmarks/attention_forms.json")
TOKENS, ROUNDS, BASE = 4096, 5, 1e4
PLAIN = ModelConfig(
    num_layers=2,
    hidden_size=256,
    intermediate_size=688,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    vocab_size=512,
    window=1024,
    layer_pattern=["window_rope", "full_rope"],
)
Numbers = dict[str, dict[str, Any]]


def _kinds(**settings: Any) -> ModelConfig:
    return replace(PLAIN, kinds={kind: KindConfig(**settings) for kind in PLAIN.layer_pattern})


def _rope(rope: RopeMethod) -> ModelConfig:
    return _kinds(rope=rope)


def _scale(scale: AnyScale) -> ModelConfig:
    return _kinds(position_scale=scale)


FORMS: dict[str, ModelConfig] = {
    "plain": PLAIN,
    "linear": _rope(LinearRope(factor=4.0)),
    "ntk": _rope(NtkRope(factor=4.0)),
    "dynamic_ntk": _rope(DynamicNtkRope(factor=4.0, original_length=1024)),
    "yarn": _rope(YarnRope(factor=4.0, original_length=1024)),
    "llama3": _rope(Llama3Rope(factor=4.0, original_length=1024)),
    "longrope": _rope(
        LongRope(
            factor=4.0,
            original_length=1024,
            short_factors=[1.0] * 32,
            long_factors=[1.0 + pair / 8 for pair in range(32)],
            unscaled_tokens=4,
        )
    ),
    "resonance": _rope(Rope(resonance=True)),
    "partial": _rope(Rope(rotary_share=0.5)),
    "p-RoPE": _rope(Rope(rotary_share=0.5, partial="proportional")),
    "FoPE": _rope(Rope(fourier=Fourier())),
    "FoPE, official": _rope(Rope(fourier=Fourier(form="official"))),
    "llama4": _scale(Llama4Scale(floor_scale=1024)),
    "ministral3": _scale(Ministral3Scale(original_length=1024)),
    "swan": _scale(SwanScale()),
    "ssmax": _scale(SsmaxScale()),
    "drope": _scale(DropeScale(1024)),
    "sigmoid, head": replace(PLAIN, gate="sigmoid"),
    "sigmoid, channel": replace(PLAIN, gate="sigmoid", gate_over="channel"),
    "softplus, head": replace(PLAIN, gate="softplus"),
    "softplus, channel": replace(PLAIN, gate="softplus", gate_over="channel"),
    "static, head": replace(PLAIN, static_gate="head"),
    "static, channel": replace(PLAIN, static_gate="channel"),
    "sinks": replace(PLAIN, sinks=True),
    "qk-norm before": replace(PLAIN, qk_norm=True),
    "qk-norm after": replace(PLAIN, qk_norm=True, qk_norm_at="after"),
    "qk-norm weightless": replace(PLAIN, qk_norm=True, qk_norm_weight=False),
    "value scale": replace(PLAIN, value_scale=0.707),
    "chunks of 1024": replace(PLAIN, layer_pattern=["window_rope", "chunk_rope"], chunk=1024),
}


def built(config: ModelConfig) -> tuple[Transformer, AtStep]:
    """A model of the configuration, and its settings at the benchmark's length."""
    model = Transformer(config, choose_core("auto", "cpu", torch.float32, config.head_dim))
    initialize(model, config, seed=0)
    return model, AtStep.of(config, BASE, (TOKENS,))


def step(model: Transformer, at: AtStep) -> None:
    """One forward and backward."""
    tokens_T = torch.arange(TOKENS) % PLAIN.vocab_size
    layout = PackedLayout.from_lengths([TOKENS])
    model.zero_grad()
    model.loss(model(tokens_T, layout, at), tokens_T.roll(-1)).total.backward()


def timed_pairs(
    plain: tuple[Transformer, AtStep], own: tuple[Transformer, AtStep]
) -> dict[str, list[float]]:
    """Seconds of both in turns, one entry a round."""
    found: dict[str, list[float]] = {"plain": [], "own": []}
    order = [("plain", plain), ("own", own)]
    for _, model in order:
        step(*model)  # the first run of each allocates
    for _ in range(ROUNDS):
        order.reverse()
        for name, model in order:
            started = time.process_time()
            step(*model)
            found[name].append(time.process_time() - started)
    return found


@contextmanager
def timed_tables(found: dict[str, list[float]]) -> Iterator[None]:
    """Puts seconds and bytes of every tile of FoPE's table into `found`."""
    made = FourierRotation.table

    def timed(rotation: FourierRotation, tile: slice, coefficients: torch.Tensor) -> torch.Tensor:
        started = time.process_time()
        turns_TGP = made(rotation, tile, coefficients)
        found["seconds"].append(time.process_time() - started)
        found["bytes"].append(turns_TGP.nbytes)
        return turns_TGP

    FourierRotation.table = timed  # type: ignore[method-assign]
    try:
        yield
    finally:
        FourierRotation.table = made  # type: ignore[method-assign]


def measured(name: str) -> dict[str, Any]:
    """The numbers of one form."""
    config = FORMS[name]
    own = built(config)
    flops = training_flops(config, [TOKENS]) / training_flops(PLAIN, [TOKENS])
    found: dict[str, Any] = {"flops": flops}
    if "FoPE" in name:
        tiles: dict[str, list[float]] = {"seconds": [], "bytes": []}
        with timed_tables(tiles):
            found |= timed_pairs(built(PLAIN), own)
        steps = ROUNDS + 1
        return found | {
            "table_seconds": sum(tiles["seconds"]) / steps,
            "tile_bytes": max(tiles["bytes"]),
            "tiles": len(tiles["bytes"]) // steps,
        }
    return found | timed_pairs(built(PLAIN), own)


def table(numbers: Numbers) -> str:
    """One row a form: seconds of the plain model, ratio with quartiles, ratio of FLOPs, quotient of both."""
    head = ("form", "plain s", "x plain", "quartiles", "x FLOPs", "quotient")
    lines = [f"{head[0]:<20}{head[1]:>9}{head[2]:>9}{head[3]:>16}{head[4]:>9}{head[5]:>10}"]
    apart = []
    for name, own in numbers.items():
        ratios = [a / b for a, b in zip(own["own"], own["plain"], strict=True)]
        low, middle, high = quantiles(ratios, n=4, method="inclusive")
        lines.append(
            f"{name:<20}{median(own['plain']):>9.2f}{middle:>9.3f}{f'{low:.3f} - {high:.3f}':>16}"
            f"{own['flops']:>9.3f}{middle / own['flops']:>10.3f}"
        )
        if "table_seconds" in own:
            share = own["table_seconds"] / median(own["plain"])
            apart.append(
                f"table of {name}: {own['table_seconds']:.3f} s a step, {share:.3f} of the plain step; "
                f"{own['tiles']} tiles of at most {own['tile_bytes'] / 2**20:.1f} MiB; "
                f"quotient without it {(middle - share) / own['flops']:.3f}"
            )
    return "\n".join([*lines, "", *apart]).rstrip() + "\n"


def main(names: list[str]) -> None:
    """Print the table, write the file."""
    torch.set_num_threads(1)
    numbers: Numbers = {}
    for name in names or FORMS:
        numbers[name] = measured(name)
        sys.stderr.write(table({name: numbers[name]}).split("\n", 1)[1])
    sys.stdout.write(table(numbers))
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
