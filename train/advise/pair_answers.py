"""Which pairs are untrained, and how far does the model extrapolate? Answers and tables."""

from train.advise.advice import Advice
from train.advise.extrapolation import ExtrapolationOfCase
from train.advise.pairs import PairsOfCase
from train.advise.tables import Question, Table, base_in_words, stages_in_words
from train.report.units import NOTHING, plural, short_number, whole_number


def pairs_question(found: Advice) -> Question:
    """Returns the question about pairs that never turn once."""
    return Question(
        "Pairs",
        "Which pairs are untrained?",
        [_about_pairs(row) for row in found.pairs if row.case in found.at_end],
        [_pairs(found), _wavelengths(found)],
    )


def _about_pairs(row: PairsOfCase) -> str:
    case, pairs = row.case, len(row.turns_P)
    seen = f"the {whole_number(case.kind.sees)} tokens that the layers see"
    if not row.never:
        return f"{case.label}: all {plural(pairs, 'pair')} turn at least once within {seen}."
    why = (
        "beyond them their angles are new to the model"
        if case.full
        else "the layers never look farther, so no angle is new to them"
    )
    return f"{case.label}: {row.never} of {plural(pairs, 'pair')} never turn once within {seen}; {why}."


def _pairs(found: Advice) -> Table:
    rows = [
        [
            row.case.kind.name,
            stages_in_words(row.case),
            whole_number(row.case.kind.sees),
            whole_number(len(row.turns_P)),
            whole_number(row.never),
            f"{row.wavelengths_P[0]:.3g} to {short_number(float(row.wavelengths_P[-1]), 4)}",
            whole_number(row.kept_by_fope),
            whole_number(row.precritical),
        ]
        for row in found.pairs
    ]
    return Table(
        "How many pairs turn",
        ["Kind", "Stages", "See", "Pairs", "Never turn once", "Waves", "FoPE keeps", "Resonant"],
        rows,
        [
            "Never turn once: pairs whose wave, the tokens of a whole turn, is longer than what the layers see, with "
            "the scaling of the layers. FoPE keeps: pairs that FoPE would let turn, the others stand still (arXiv "
            "2412.17739, section 4); it judges the frequencies before scaling, so the two columns may not add up. "
            "Resonant: pairs whose wave, rounded to whole tokens, is shorter than what the layers see, so that with "
            "Resonance RoPE they repeat the angles of training at any distance (arXiv 2403.00071, section 4)."
        ],
    )


def _wavelengths(found: Advice) -> Table:
    rows = [
        [row.case.label, " ".join(f"{wave:,.0f}" for wave in row.rounded_P[: row.precritical])]
        for row in found.pairs
        if row.precritical
    ]
    return Table(
        "Wavelengths that Resonance RoPE makes whole, tokens",
        ["Kind", "Wavelengths"],
        rows,
        long=True,
    )


def extrapolation_question(found: Advice) -> Question:
    """Returns the question about extrapolation."""
    return Question(
        "Extrapolation",
        "How far beyond its training does it extrapolate?",
        [_about_extrapolation(row) for row in found.extrapolations if row.case in found.at_end],
        [_extrapolation(found), _small_bases(found)],
    )


def _about_extrapolation(row: ExtrapolationOfCase) -> str:
    case, laws = row.case, row.laws
    base, length = case.kind.pretrained
    rotated = 2 * len(case.radians)
    said = (
        f"{case.label}: {row.pretrained_dimension} of {rotated} dimensions turn once in pretraining "
        f"({whole_number(length)} tokens at base {base_in_words(base)})"
    )
    if not case.full:
        return f"{said}; the layers never look farther than {whole_number(case.kind.sees)} tokens."
    if row.pretrained_dimension >= rotated:
        return f"{said}, so no angle is new at any distance."
    if case.plain_base is None:
        return f"{said}; the laws are about bases and do not know {case.method} scaling."
    if laws is None:
        return (
            f"{said}; the laws say nothing of a training at {whole_number(case.kind.sees)} tokens."
        )
    now, critical = base_in_words(case.plain_base), base_in_words(laws.critical_base)
    if laws.usable_length > case.kind.sees:
        return (
            f"{said}; base {now} is above the critical base {critical}, and perplexity is expected to hold up to "
            f"{whole_number(laws.usable_length)} tokens."
        )
    return (
        f"{said}; base {now} is not above the critical base {critical}, and perplexity is expected to hold up to the "
        f"trained {whole_number(case.kind.sees)} tokens and no farther."
    )


def _extrapolation(found: Advice) -> Table:
    rows = []
    for row in found.extrapolations:
        case, laws = row.case, row.laws
        base, length = case.kind.pretrained
        rows.append(
            [
                case.kind.name,
                stages_in_words(case),
                f"{whole_number(length)} at {base_in_words(base)}",
                str(row.pretrained_dimension),
                whole_number(case.kind.sees),
                base_in_words(laws.critical_base) if laws else NOTHING,
                whole_number(row.wave) if row.wave else NOTHING,
                whole_number(laws.usable_length) if laws else NOTHING,
            ]
        )
    columns = ["Kind", "Stages", "Pretrained", "Critical dim.", "Tuned at", "Critical base"]
    return Table(
        "Scaling laws of extrapolation",
        [*columns, "T_extra", "Holds to"],
        rows,
        [
            "Critical dim.: dimensions that complete a turn in pretraining. T_extra: 2 pi base^(critical dim. / d), "
            "the wave of the first pair that did not. Holds to: T_extra if the base is above the critical base for "
            "the length tuned at (what the layers see in the stage), else that length (arXiv 2310.05209). The laws "
            "know bases and no scalings."
        ],
    )


def _small_bases(found: Advice) -> Table:
    by_length = {row.case.kind.sees: row.small for row in found.extrapolations}
    return Table(
        "Small bases",
        ["Tuned at", "A quarter turn", "Half a turn", "A whole turn"],
        [
            [whole_number(length), *map(whole_number, (small.quarter, small.half, small.whole))]
            for length, small in sorted(by_length.items())
        ],
        [
            "Bases below which every pair makes that part of a turn in training. Such a base extrapolates too, the "
            "better the smaller it is (arXiv 2310.05209), but its reach is short: low perplexity is no retrieval."
        ],
    )
