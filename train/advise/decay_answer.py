"""How sharply are positions told apart? Granularity and decay, now and stretched to longer lengths."""

from train.advise.advice import Advice
from train.advise.decay import DISTANCES, Decay, Stretch
from train.advise.tables import Question, Table, stages_in_words
from train.report.units import NOTHING, whole_number


def decay_question(found: Advice) -> Question:
    """Returns the question about granularity and decay."""
    return Question(
        "Resolution",
        "How sharply are positions told apart?",
        [_about(row) for row in found.decays if row.case in found.at_end],
        [_decay(found), _stretched(found)],
    )


def _about(row: Decay) -> str:
    farthest = max(row.scores)
    return (
        f"{row.case.label}: one token turns the pairs by {row.granularity:.3f} on average; the score of ones falls "
        f"from {row.scores[0]:.1f} at distance 0 to {row.scores[farthest]:.1f} at {whole_number(farthest)} tokens."
    )


def _decay(found: Advice) -> Table:
    def cells(row: Decay) -> list[str]:
        scores = [
            f"{row.scores[distance]:.3f}" if distance in row.scores else ""
            for distance in (0, *DISTANCES)
        ]
        return [row.case.kind.name, stages_in_words(row.case), f"{row.granularity:.4f}", *scores]

    return Table(
        "Granularity, and scores by distance",
        ["Kind", "Stages", "Granularity", *(f"at {distance:,}" for distance in (0, *DISTANCES))],
        [cells(row) for row in found.decays],
        [
            "Granularity: the mean sine of one token's turn, how far neighbouring positions lie apart. Scores: 2 "
            "sum cos(m theta) / sqrt(d), that of a query and a key of ones at distance m; a faster fall forgets "
            "more (arXiv 2309.16039, section 4.1)."
        ],
    )


def _stretched(found: Advice) -> Table:
    def cells(row: Stretch) -> list[str]:
        first = NOTHING if row.first is None else f"{row.first:.4f}"
        return [
            row.case.kind.name,
            whole_number(row.length),
            f"{row.factor:g}",
            f"{row.interpolated:.4f}",
            f"{row.ntk:.4f}",
            first,
        ]

    return Table(
        "Granularity, if pretraining were stretched to a length",
        ["Kind", "Length", "Factor", "Interpolated", "NTK-aware base", "First feasible base"],
        [cells(row) for row in found.stretches],
        [
            "Interpolation divides every frequency by the factor, and neighbours come closer by about as much; a "
            "higher base keeps most of their distance (arXiv 2309.16039, section 4.1)."
        ],
    )
