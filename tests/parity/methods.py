"""Every position method and form of attention by name: how a user asks for it, where it is from, which models have it.

`method_array.py` pairs them with the axes; `table.py` writes docs/positions.md from both.
"""

from collections.abc import Callable
from dataclasses import dataclass

from data.packing.document_rules import DocumentRules
from model.layer_pattern import LayerSpec, layer_kinds
from tests.parity.layout_cases import RULES, STAGES, Case
from train.configuration.schema import WindowRamp


@dataclass(frozen=True)
class Method:
    """A method or form. key: how it is asked for. source: paper or released model. holds: whether a case has it."""

    key: str
    source: str
    holds: Callable[[Case], bool]


def _spec(says: Callable[[LayerSpec], bool]) -> Callable[[Case], bool]:
    """Whether a kind of layer of the case's model fits `says`."""
    return lambda case: any(says(spec) for spec in layer_kinds(case.at_stage).values())


def _rope(says: Callable[[object], bool]) -> Callable[[Case], bool]:
    return _spec(lambda spec: spec.rope is not None and says(spec.rope))


def _scaling(name: str, **fields: object) -> Callable[[Case], bool]:
    return _rope(
        lambda rope: (
            getattr(rope, "scaling", "") == name
            and all(getattr(rope, key) == value for key, value in fields.items())
        )
    )


def _scale(name: str) -> Callable[[Case], bool]:
    return _spec(lambda spec: spec.position_scale is not None and spec.position_scale.scale == name)


def _rules(says: Callable[[DocumentRules], bool]) -> Callable[[Case], bool]:
    return lambda case: says(RULES[case.rules])


def _stage_window(is_ramp: bool) -> Callable[[Case], bool]:
    return lambda case: any(
        change.window is not None and isinstance(change.window, WindowRamp) == is_ramp
        for change in STAGES[case.stage].changes.values()
    )


def _stage_drops(case: Case) -> bool:
    return any(change.position == "none" for change in STAGES[case.stage].changes.values())


_ROPE = "model.kinds.NAME.rope."
_KIND = "model.kinds.NAME."
_STAGE = "schedule.stages.NAME."
METHODS: dict[str, Method] = {
    "RoPE": Method("`full_rope`, `window_rope`", "arXiv 2104.09864", _scaling("none")),
    "NoPE": Method(
        "`full_nope`, `window_nope`", "arXiv 2501.18795", _spec(lambda spec: spec.rope is None)
    ),
    "raised base": Method(
        f"`{_ROPE}base`, `{_STAGE}rope_base`", "arXiv 2309.16039", _rope(lambda r: r.base > 0)
    ),
    "PI": Method(f"`{_ROPE}scaling=linear`", "arXiv 2306.15595", _scaling("linear")),
    "NTK-aware": Method(f"`{_ROPE}scaling=ntk`", "arXiv 2309.00071, 3.1", _scaling("ntk")),
    "dynamic NTK": Method(
        f"`{_ROPE}scaling=dynamic_ntk`", "arXiv 2309.00071, 3.3", _scaling("dynamic_ntk")
    ),
    "YaRN": Method(f"`{_ROPE}scaling=yarn`", "arXiv 2309.00071, reference code", _scaling("yarn")),
    "YaRN, the paper's ramp": Method(
        f"`{_ROPE}scaling=yarn` `.ramp=paper`",
        "arXiv 2309.00071, 3.2",
        _scaling("yarn", ramp="paper"),
    ),
    "Llama 3.1": Method(f"`{_ROPE}scaling=llama3`", "released code", _scaling("llama3")),
    "LongRoPE": Method(f"`{_ROPE}scaling=longrope`", "arXiv 2402.13753", _scaling("longrope")),
    "Resonance": Method(
        f"`{_ROPE}resonance=true`", "arXiv 2403.00071", _rope(lambda r: r.resonance)
    ),
    "FoPE": Method(
        f"`{_ROPE}fourier={{}}`",
        "arXiv 2412.17739",
        _rope(lambda r: r.fourier is not None and r.fourier.form == "paper"),
    ),
    "FoPE, the official code's form": Method(
        f"`{_ROPE}fourier={{form: official}}`",
        "its released code",
        _rope(lambda r: r.fourier is not None and r.fourier.form == "official"),
    ),
    "partial rotation": Method(
        f"`{_ROPE}rotary_share`",
        "GPT-NeoX, MiMo",
        _rope(lambda r: r.rotary_share < 1 and r.partial == "ordinary"),
    ),
    "p-RoPE": Method(
        f"`{_ROPE}partial=proportional`",
        "Gemma 4",
        _rope(lambda r: r.rotary_share < 1 and r.partial == "proportional"),
    ),
    "scale of Llama 4": Method(
        f"`{_KIND}position_scale=llama4`", "released code", _scale("llama4")
    ),
    "scale of Ministral 3": Method(
        f"`{_KIND}position_scale=ministral3`", "released code", _scale("ministral3")
    ),
    "scale of SWAN": Method(f"`{_KIND}position_scale=swan`", "arXiv 2504.08719", _scale("swan")),
    "SSMax": Method(f"`{_KIND}position_scale=ssmax`", "arXiv 2501.19399", _scale("ssmax")),
    "scale of DroPE": Method(f"`{_KIND}position_scale=drope`", "arXiv 2512.12167", _scale("drope")),
    "attention chunks": Method(
        "`chunk_rope`, `chunk_nope`", "Llama 4", _spec(lambda spec: spec.reach.chunk is not None)
    ),
    "sinks": Method(
        f"`{_KIND}sinks`",
        "gpt-oss, MiMo",
        _spec(lambda spec: spec.sinks),
    ),
    "sigmoid gate a head": Method(
        f"`{_KIND}gate=sigmoid`",
        "arXiv 2505.06708",
        _spec(lambda spec: spec.gate == "sigmoid" and spec.gate_over == "head"),
    ),
    "sigmoid gate a channel": Method(
        f"`{_KIND}gate=sigmoid` `.gate_over=channel`",
        "arXiv 2505.06708",
        _spec(lambda spec: spec.gate == "sigmoid" and spec.gate_over == "channel"),
    ),
    "softplus gate": Method(
        f"`{_KIND}gate=softplus`", "Laguna", _spec(lambda spec: spec.gate == "softplus")
    ),
    "static gate": Method(
        f"`{_KIND}static_gate`",
        "ASR, arXiv 2304.06345",
        _spec(lambda spec: spec.static_gate != "none"),
    ),
    "QK-norm after the rotation": Method(
        f"`{_KIND}qk_norm_at=after`",
        "Llama 4",
        _spec(lambda spec: spec.qk_norm and spec.qk_norm_at == "after"),
    ),
    "QK-norm without a weight": Method(
        f"`{_KIND}qk_norm_weight=false`",
        "Llama 4",
        _spec(lambda spec: spec.qk_norm and not spec.qk_norm_weight),
    ),
    "QK-norm with weights for every head": Method(
        "`model.qk_norm_over=each_head`",
        "Command R+, released code",
        lambda case: case.at_stage.qk_norm_over == "each_head",
    ),
    "value scale": Method(
        f"`{_KIND}value_scale`", "MiMo-V2-Flash", _spec(lambda spec: spec.value_scale != 1)
    ),
    "no document mask": Method(
        f"`{_STAGE}document_mask=false`", "SkyLadder, CIP", _rules(lambda r: not r.document_mask)
    ),
    "positions of rows": Method(
        f"`{_STAGE}reset_positions=false`", "", _rules(lambda r: not r.reset_positions)
    ),
    "PoSE": Method(f"`{_STAGE}pose`", "arXiv 2309.10400", _rules(lambda r: r.pose is not None)),
    "window of a stage": Method(f"`{_STAGE}kinds.NAME.window`", "", _stage_window(False)),
    "window that ramps": Method(
        f"`{_STAGE}kinds.NAME.window={{policy: ramp}}`", "arXiv 2503.15450", _stage_window(True)
    ),
    "rotation dropped": Method(
        f"`{_STAGE}kinds.NAME.position=none`", "arXiv 2512.12167", _stage_drops
    ),
}
