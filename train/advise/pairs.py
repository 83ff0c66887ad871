"""Which pairs are untrained? How often every pair turns within what its layers see, and what methods make of it."""

from dataclasses import dataclass

from model.position.advice.wavelengths import (
    incomplete,
    kept_pairs,
    precritical,
    resonant_wavelengths,
    turns_within,
    wavelengths,
)
from model.position.settings import Values
from train.advise.subject import Case


@dataclass(frozen=True)
class PairsOfCase:
    """The pairs of a kind of layers.

    wavelengths_P: tokens of a turn, (P,). turns_P: turns over what the layers see, (P,). rounded_P: wavelengths that
    Resonance RoPE makes whole tokens, (P,). never: pairs that do not turn once. kept_by_fope: pairs that FoPE would
    let turn. precritical: pairs whose rounded wavelength is shorter than what the layers see.
    """

    case: Case
    wavelengths_P: Values
    turns_P: Values
    rounded_P: Values
    never: int
    kept_by_fope: int
    precritical: int


def pairs_of(case: Case) -> PairsOfCase:
    """Returns the pairs of a case."""
    radians_P, sees = case.radians, case.kind.sees
    plain_P = case.kind.rope.unscaled(case.kind.base, case.head_dim)
    return PairsOfCase(
        case,
        wavelengths(radians_P),
        turns_within(radians_P, sees),
        resonant_wavelengths(radians_P),
        int(incomplete(radians_P, sees).sum()),
        int(kept_pairs(plain_P, sees).sum()),
        int(precritical(radians_P, sees).sum()),
    )
