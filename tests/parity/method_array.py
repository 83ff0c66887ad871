"""The covering array of methods and axes: every method with every value of every axis, but for the allowed refusals.

A model holds several methods at once, each in layers of its own, so a few models with the layouts below hold every
pair. `test_method_array.py` runs the cases and proves by enumeration that no pair is missing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.parity.layout_cases import (
    CASES,
    FIRST_CASES,
    KEPT_ATTENTION,
    RULE_CASES,
    STAGE_CASES,
    Case,
)
from tests.parity.layout_models import FORMS
from tests.parity.methods import METHODS


@dataclass(frozen=True)
class Proof:
    """A case, and how it is compared with one process.

    how: gradients in float64; steps of the engine with a ZeRO stage in float32; compiled regions; bfloat16. ring:
    whether full layers receive keys by ring steps; False: in one exchange.
    """

    case: Case
    how: str = "gradients"
    zero_stage: int = 1
    ring: bool = True


# Layouts of every model, in float64 with all gradients: tensor, pipeline, sequence, data, schedule, dealing,
# micro-batches, keep.
_LAYOUTS: tuple[tuple[int, int, int, int, str, str, int, str], ...] = (
    (2, 1, 1, 1, "-", "-", 1, "everything"),
    (4, 1, 1, 1, "-", "-", 1, "attention"),
    (1, 1, 2, 1, "-", "zigzag", 2, "everything"),
    (1, 1, 3, 1, "-", "contiguous", 1, "input"),
    (2, 1, 2, 1, "-", "balanced", 1, "attention"),
    (1, 2, 1, 2, "1f1b", "-", 2, "input"),
    (1, 2, 1, 1, "interleaved_1f1b", "-", 2, "everything"),
    (1, 2, 1, 1, "zbv", "-", 2, "everything"),
)
_VARIANTS = (
    *((name, "by document", "") for name in ("cohere", "llama", *FORMS)),
    *(("cohere", rules, "") for rules in ("rows", "pose")),
    ("cohere", "by document", "ladder"),
    ("llama", "by document", "dropped"),
)


def _cases() -> Iterator[Case]:
    for model, rules, stage in _VARIANTS:
        for *layout, keep in _LAYOUTS:
            case = Case(*layout, model, keep, rules, stage)  # type: ignore[arg-type]
            if case.is_possible:
                yield case


# Run under the marker `slow`.
GRADIENT_CASES = tuple(dict.fromkeys(_cases()))
EXCHANGED = tuple(case for case in GRADIENT_CASES if case.sequence == 2 and case.tensor == 1)
STEP_CASES = tuple(
    (Case(1, 1, 1, 2, "-", "-", 1, model, "everything", rules, stage), zero_stage)
    for zero_stage in (1, 2, 3)
    for model, rules, stage in _VARIANTS
)
WHOLE = tuple(
    Case(1, 1, 1, 1, "-", "-", 1, model, "everything", rules, stage)
    for model, rules, stage in _VARIANTS
)
# The same models in `make test` too, on the layouts of other tests.
QUICK = (*FIRST_CASES, *KEPT_ATTENTION, *RULE_CASES, *STAGE_CASES)
PROOFS: tuple[Proof, ...] = (
    *(Proof(case) for case in (*CASES, *QUICK, *GRADIENT_CASES)),
    *(Proof(case, ring=False) for case in EXCHANGED),
    *(Proof(case, "steps", zero_stage) for case, zero_stage in STEP_CASES),
    *(Proof(case, how) for case in WHOLE for how in ("compiled", "bfloat16")),
)

# Values of the axes, each with the proofs that show it.
AXES: dict[str, Callable[[Proof], bool]] = {
    "tensor": lambda p: p.how == "gradients" and p.case.tensor == 2,
    "tensor, fewer groups than ranks": lambda p: p.how == "gradients" and p.case.tensor == 4,
    "sequence, ring": lambda p: p.how == "gradients" and p.case.sequence > 1 and p.ring,
    "sequence, exchange": lambda p: p.how == "gradients" and p.case.sequence > 1 and not p.ring,
    "zigzag": lambda p: p.how == "gradients" and p.case.dealing == "zigzag",
    "contiguous": lambda p: p.how == "gradients" and p.case.dealing == "contiguous",
    "balanced": lambda p: p.how == "gradients" and p.case.dealing == "balanced",
    "1f1b": lambda p: p.how == "gradients" and p.case.schedule == "1f1b",
    "interleaved 1f1b": lambda p: p.how == "gradients" and p.case.schedule == "interleaved_1f1b",
    "zbv": lambda p: p.how == "gradients" and p.case.schedule == "zbv",
    "data": lambda p: p.how == "gradients" and p.case.data == 2,
    "ZeRO 1": lambda p: p.how == "steps" and p.zero_stage == 1,
    "ZeRO 2": lambda p: p.how == "steps" and p.zero_stage == 2,
    "ZeRO 3": lambda p: p.how == "steps" and p.zero_stage == 3,
    "recomputed": lambda p: p.how == "gradients" and p.case.keep == "input",
    "recomputed, attention kept": lambda p: p.how == "gradients" and p.case.keep == "attention",
    "compiled": lambda p: p.how == "compiled",
    "float32": lambda p: p.how == "steps",
    "bfloat16": lambda p: p.how == "bfloat16",
}
# The refusals that the project allows itself: method, axis value, and a part of the message.
REFUSED: dict[tuple[str, str], str] = {
    ("sinks", "zbv"): "zbv computes the gradient of every weight separately",
}


def missing() -> list[tuple[str, str]]:
    """Pairs of a method and an axis value that no proof has and no refusal explains."""
    return [
        (name, axis)
        for name, method in METHODS.items()
        for axis, shows in AXES.items()
        if (name, axis) not in REFUSED
        and not any(shows(proof) and method.holds(proof.case) for proof in PROOFS)
    ]
