"""The page: the same questions and tables as in the terminal, with pictures. Made as the report of a run is."""

import html
from collections.abc import Sequence
from datetime import UTC, datetime

from model.flops import parameter_count
from train.advise.advice import Advice
from train.advise.base_figure import reach_figure
from train.advise.cost_figures import cost_figures
from train.advise.effective_figure import trained_figure
from train.advise.figures import short_length
from train.advise.pair_figures import decay_figure, wavelength_figure
from train.advise.questions import questions
from train.advise.tables import Question, base_in_words
from train.report.axes import Figure
from train.report.model_words import model_in_words
from train.report.overview import tile
from train.report.page import PageWords, document, drawn, grid
from train.report.stage_table import chip
from train.report.tables import facts, paragraph, table
from train.report.units import moment_text, short_number, size, whole_number

_WORDS = PageWords(
    "Ropewalk advice",
    "advice",
    "Computed from the shape of the model and published formulas; nothing here was measured. k and M of lengths are "
    "1,024 and 1,048,576 tokens; kB, MB and GB are 10<sup>3</sup>, 10<sup>6</sup> and 10<sup>9</sup> bytes.",
)
_ADVICE = (
    "This is advice: the formulas know the rotation and the shape of the model and nothing of what it learned. "
    "Judge a long context by tasks at that length."
)


def render(found: Advice, now: datetime | None = None) -> str:
    """Returns the whole page as HTML."""
    by_question = figures_of(found)
    sections = {
        question.name: _section(question, by_question.get(question.name, []))
        for question in questions(found)
    }
    subject = found.subject
    head = [
        paragraph(
            f"Advice on {subject.source}. Written {moment_text(now or datetime.now(UTC))}.",
            "standing",
        ),
        paragraph(model_in_words(subject.model), "lead"),
        paragraph(_ADVICE, "note"),
        paragraph(subject.note, "note"),
        facts(_facts(found)),
        f"<div class=tiles>{''.join(_tiles(found))}</div>",
    ]
    legend = "".join(chip(case.label, number) for number, case in enumerate(found.cases))
    figures = [figure for some in by_question.values() for figure in some]
    return document(subject.name, "".join(head), legend, sections, figures, _WORDS)


def figures_of(found: Advice) -> dict[str, list[Figure]]:
    """Returns the figures of every question, by its name."""
    return {
        "Base": drawn(reach_figure(found)),
        "Pairs": drawn(wavelength_figure(found)),
        "Lengths": drawn(trained_figure(found)),
        "Resolution": drawn(decay_figure(found)),
        "Cost": drawn(*cost_figures(found)),
    }


def _section(question: Question, figures: Sequence[Figure]) -> str:
    parts = [f"<h3>{html.escape(question.asks)}</h3>"]
    parts += [paragraph(line) for line in question.answer]
    parts.append(grid(figures))
    for one in question.tables:
        if one.rows:
            parts.append(f"<h4>{html.escape(one.title)}</h4>")
            parts.append(table(one.columns, one.rows, words=one.long))
            parts += [paragraph(note, "unit") for note in one.notes]
    return "".join(parts)


def _facts(found: Advice) -> dict[str, str]:
    moments = found.subject.moments
    count = parameter_count(found.subject.model)
    return {
        "Parameters": f"{short_number(count)} ({whole_number(count)})",
        "Stages": ", ".join(f"{moment.stage} {whole_number(moment.length)}" for moment in moments),
        "Lengths": ", ".join(map(short_length, found.lengths)),
    }


def _tiles(found: Advice) -> list[str]:
    tiles = []
    for reach, pairs in zip(found.reaches, found.pairs, strict=True):
        kind = reach.case.kind
        if reach.case in found.at_end:
            sees = whole_number(kind.sees)
            least = "at least " * (reach.enough is None)
            part = "all" if reach.enough else f"{least}{whole_number(reach.tokens)} of"
            covers = f"reaches {part} {sees}"
            tiles.append(tile(f"Base of {kind.name}", base_in_words(kind.base), f"{covers} tokens"))
            never = f"{pairs.never} of {len(pairs.turns_P)}"
            tiles.append(tile(f"Pairs of {kind.name}", never, f"never turn once in {sees} tokens"))
    ends = (min(found.subject.longest, found.lengths[-1]), found.lengths[-1])
    for cost in (cost for cost in found.costs if cost.length in ends):
        at = f"at {short_length(cost.length)} tokens, bfloat16"
        tiles.append(tile("Cache of a sequence", size(cost.cache_bytes), at))
    return tiles
