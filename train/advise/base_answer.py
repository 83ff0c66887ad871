"""Is the RoPE base enough? Reach of every rotation, and bases for every length."""

from train.advise.advice import Advice
from train.advise.base import ANY_BASE, Bases, Reach
from train.advise.subject import Case, Kind
from train.advise.tables import Question, Table, base_in_words, stages_in_words
from train.report.units import NOTHING, whole_number

_SOURCE = "arXiv 2405.14591"


def base_question(found: Advice) -> Question:
    """Returns the question about bases."""
    return Question(
        "Base",
        "Is the RoPE base enough?",
        _answer(found),
        [_reaches(found), _bases(found)],
    )


def _answer(found: Advice) -> list[str]:
    if not found.reaches:
        return ["No layer rotates: there is no base to choose."]
    said = [_about(reach, found) for reach in found.reaches if reach.case in found.at_end]
    if not any(kind.frequencies and kind.spec.reach.limit is None for kind in _last(found)):
        said.append(
            "No rotary layer sees the whole document, so the length of the context asks nothing of the base."
        )
    return said


def _about(reach: Reach, found: Advice) -> str:
    case = reach.case
    limit = "the whole document" if case.full else "their window or chunk"
    base = f"{case.label}: base {base_in_words(case.kind.base)} reaches {_tokens(reach)} tokens"
    sees = f"the {whole_number(case.kind.sees)} that the layers see ({limit})"
    if reach.enough is None:
        return f"{base}; the reach was not searched up to {sees}."
    said = f"{base} and {'covers' if reach.enough else 'does not cover'} {sees}"
    if reach.enough:
        return f"{said}."
    below = "; see the bases below, which reach it" if _is_reached(case, found) else ""
    if case.full:
        return f"{said}{below}."
    if any(kind.spec.reach.limit is None and kind.spec.rope is None for kind in _last(found)):
        return f"{said}; released hybrids work so, since their layers without positions retrieve."
    return f"{said}{below}."


def _is_reached(case: Case, found: Advice) -> bool:
    """Whether the table of bases has some for what these layers see."""
    return any(
        bases.bound is not None
        and bases.case.kind.name == case.kind.name
        and bases.length >= case.kind.sees
        for bases in found.bases
    )


def _last(found: Advice) -> tuple[Kind, ...]:
    return found.subject.moments[-1].kinds


def _tokens(reach: Reach) -> str:
    return f"{whole_number(reach.tokens)}{' or more' * reach.may_be_longer}"


def _reaches(found: Advice) -> Table:
    rows = [
        [
            reach.case.kind.name,
            stages_in_words(reach.case),
            whole_number(reach.case.kind.layers),
            whole_number(reach.case.kind.sees),
            base_in_words(reach.case.kind.base),
            reach.case.method,
            _tokens(reach),
            {True: "yes", False: "no", None: NOTHING}[reach.enough],
        ]
        for reach in found.reaches
    ]
    return Table(
        "How far each rotation reaches",
        ["Kind", "Stages", "Layers", "See", "Base", "Method", "Reach", "Enough"],
        rows,
        [
            "See: the most tokens that these layers look back over, their window or chunk included. Reach: the largest "
            "distance up to which a key like the query scores above a random key on average, sum of cos(m theta) over "
            f"the pairs >= 0 ({_SOURCE}, section 4). It is an argument about one layer and not strict: Llama 3 is used "
            "beyond its reach."
        ],
    )


def _bases(found: Advice) -> Table:
    rows = [
        [
            bases.case.kind.name,
            whole_number(bases.length),
            _bound(bases.bound.first) if bases.bound else NOTHING,
            _bound(bases.bound.safe) if bases.bound else NOTHING,
            base_in_words(bases.fit),
            base_in_words(bases.ntk) if bases.ntk else NOTHING,
            _now(found, bases),
        ]
        for bases in found.bases
    ]
    return Table(
        "Which bases reach a length",
        ["Kind", "Length", "First feasible", "Safe from", "Paper's fit", "NTK-aware", "Last base"],
        rows,
        [
            "First feasible: the smallest base with enough reach. The reach is not monotone in the base: larger bases "
            "may fail again. Safe from: the base above which none of the grid that was searched does. Paper's fit: "
            f"0.0424 L^1.628 ({_SOURCE}). NTK-aware: the base in pretraining times s^(d/(d-2)), s the growth of the "
            "length (arXiv 2309.00071, 3.1). Last base: that of the last stage. Pairs that stand still count as 1 at "
            "every distance, so a rotation of a small part of the head may reach any length with any base."
        ],
    )


def _bound(base: float) -> str:
    """Returns a base in words."""
    return "any" if base <= ANY_BASE else base_in_words(base)


def _now(found: Advice, bases: Bases) -> str:
    reach = next(reach for reach in found.reaches if reach.case == bases.case)
    return {True: "reaches it", False: "too small", None: NOTHING}[reach.covers(bases.length)]
