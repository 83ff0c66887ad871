"""Position methods and forms of attention on the device: whole models, losses and every gradient.

Each model has one form in all its layers. Two comparisons with the same weights:

    float64     on the device, eager, with the dense core, against float64 on the CPU: the same sums in another order
    bfloat16    on the device with the fastest core and compiled regions, as training runs, against float64; it may
                lose at most twice what the eager model with the dense core loses in bfloat16
"""

from dataclasses import replace
from typing import Any

import torch
from machine import Machine
from model_accuracy import FLOOR, Answer, Problem, answer, build, distance, parity_problem
from outcome import Outcome

from model.attention.core import choose_core
from model.attention.dense import DenseCore
from model.layer_pattern import KindConfig
from model.position.dynamic_ntk import DynamicNtkRope
from model.position.fourier import Fourier
from model.position.longrope import LongRope
from model.position.rope import Rope
from model.position.scales.llama4 import Llama4Scale
from model.position.scales.ssmax import SsmaxScale
from model.regions import compile_regions

# Answers are kept in float32, so float64 runs agree to about its last place.
SAME = 1e-6
PAIRS = 32
# By name: settings of every kind of layer in the pattern.
FORMS: dict[str, dict[str, Any]] = {
    "sinks": {"sinks": True},
    "sigmoid gate a channel": {"gate": "sigmoid", "gate_over": "channel"},
    "softplus gate a head": {"gate": "softplus"},
    "qk-norm after, no weight; value scale": {
        "qk_norm": True,
        "qk_norm_at": "after",
        "qk_norm_weight": False,
        "value_scale": 0.707,
    },
    "partial, Resonance": {"rope": Rope(rotary_share=0.5, resonance=True)},
    "p-RoPE": {"rope": Rope(rotary_share=0.25, partial="proportional")},
    "dynamic NTK": {"rope": DynamicNtkRope(factor=2.0, original_length=48)},
    "LongRoPE": {
        "rope": LongRope(
            factor=2.0,
            original_length=48,
            short_factors=[1.0] * PAIRS,
            long_factors=[1 + pair / 16 for pair in range(PAIRS)],
            unscaled_tokens=4,
        )
    },
    "FoPE": {"rope": Rope(fourier=Fourier(num_tones=40))},
    "FoPE, official": {"rope": Rope(fourier=Fourier(form="official"))},
    "SSMax": {"position_scale": SsmaxScale()},
    "scale of Llama 4": {"position_scale": Llama4Scale(floor_scale=16)},
}


def form_problem(settings: dict[str, Any], machine: Machine) -> Problem:
    """The stream of `parity_problem`, read by a model of windowed, chunked and full layers with RoPE in this form."""
    problem = parity_problem(machine)
    pattern = ["window_rope", "chunk_rope", "full_rope"]
    kinds = {name: KindConfig(**settings) for name in pattern}
    return replace(
        problem,
        config=replace(
            problem.config,
            num_layers=len(pattern),
            layer_pattern=pattern,
            kinds=kinds,
            chunk=problem.config.window,
        ),
    )


def check_forms(machine: Machine) -> Outcome:
    """Every form in float64 and in bfloat16. Regions are compiled on a GPU only, as training does."""
    torch.set_float32_matmul_precision("highest")
    outcome = Outcome(
        "Position methods and forms of attention, whole models against float64 on the CPU",
        ("form", "float64, worst", "bfloat16, compiled: worst share of the bound"),
    )
    for name, settings in FORMS.items():
        if machine.seconds_left < 0:
            outcome.notes.append(f"{name}: no time left.")
            continue
        _check(outcome, name, form_problem(settings, machine), machine)
        machine.record(outcome)
    outcome.notes.append(
        f"Root mean square of all token losses and of each parameter's gradient. float64: at most {SAME:g} of the "
        f"tensor. bfloat16: at most 2 x the distance of the eager model with the dense core, + {FLOOR:g}."
    )
    return outcome


def _check(outcome: Outcome, name: str, problem: Problem, machine: Machine) -> None:
    dense = DenseCore()
    exact = answer(build(problem.on("cpu"), dense, torch.float64), problem.on("cpu"))
    here = answer(build(problem, dense, torch.float64), problem)
    yardstick = answer(build(problem, dense, torch.bfloat16), problem)
    core = choose_core("auto", machine.device, torch.bfloat16, problem.config.head_dim)
    model = build(problem, core, torch.bfloat16)
    if machine.is_cuda:
        compile_regions(model)
    found = answer(model, problem)
    apart, shares = _relative(here, exact), {}
    for key, true in exact.tensors().items():
        line = f"{name}: {key}: float64 on the device is {apart[key]:.1e} from the CPU's"
        outcome.expect(apart[key] <= SAME, f"{line}, allowed {SAME:g}")
        allowed = 2 * distance(yardstick.tensors()[key], true) + FLOOR * float(true.norm())
        shares[key] = distance(found.tensors()[key], true) / allowed
        outcome.expect(shares[key] <= 1, f"{name}: {key}: {shares[key]:.2f} of bfloat16's bound")
    furthest, worst = max(apart, key=apart.__getitem__), max(shares, key=shares.__getitem__)
    outcome.rows.append(
        (name, f"{apart[furthest]:.1e} ({furthest})", f"{shares[worst]:.2f} ({worst})")
    )
    outcome.numbers.append({"form": name, "float64": apart, "shares": shares})


def _relative(found: Answer, true: Answer) -> dict[str, float]:
    """Distance by tensor, as a part of the tensor's norm."""
    mine = found.tensors()
    return {
        key: distance(mine[key], exact) / max(float(exact.norm()), 1e-30)
        for key, exact in true.tensors().items()
    }
