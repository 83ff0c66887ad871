"""All that is computed about a subject: the data behind the tables, the page and `--json`."""

from collections.abc import Sequence
from dataclasses import dataclass

from train.advise.base import Bases, Reach, bases_for, reach_of
from train.advise.cost import Cost, cost_of
from train.advise.decay import Decay, Stretch, decay_of, stretch_of
from train.advise.effective import Effective, effective_lengths
from train.advise.extrapolation import ExtrapolationOfCase, extrapolation_of
from train.advise.pairs import PairsOfCase, pairs_of
from train.advise.subject import Case, Subject, cases_of

# Lengths that are taken where none is asked for: those of the stages, and doublings of the longest up to here or eight
# times the longest.
_COMMON, _DOUBLINGS = 2**17, 3


@dataclass(frozen=True)
class Advice:
    """Everything about a subject at these lengths, in tokens. Rows stand in the order of the stages."""

    subject: Subject
    lengths: tuple[int, ...]
    reaches: tuple[Reach, ...]
    bases: tuple[Bases, ...]
    pairs: tuple[PairsOfCase, ...]
    extrapolations: tuple[ExtrapolationOfCase, ...]
    effective: tuple[Effective, ...]
    decays: tuple[Decay, ...]
    stretches: tuple[Stretch, ...]
    costs: tuple[Cost, ...]

    @property
    def cases(self) -> tuple[Case, ...]:
        """The rotary kinds of layers, as they are in the stages."""
        return tuple(reach.case for reach in self.reaches)

    @property
    def at_end(self) -> tuple[Case, ...]:
        """Those of the last stage."""
        last = self.subject.moments[-1].stage
        return tuple(case for case in self.cases if case.stages[-1] == last)


def default_lengths(subject: Subject) -> tuple[int, ...]:
    """Returns the lengths of the stages, and longer ones."""
    longest = subject.longest
    found = {moment.length for moment in subject.moments}
    doubled, count = longest * 2, 0
    while doubled <= _COMMON or count < _DOUBLINGS:
        found.add(doubled)
        doubled, count = doubled * 2, count + 1
    return tuple(sorted(found))


def advise(subject: Subject, lengths: Sequence[int]) -> Advice:
    """Returns the advice about a subject at these lengths, in tokens."""
    cases = cases_of(subject)
    bases = _bases(cases, lengths)
    return Advice(
        subject,
        tuple(lengths),
        tuple(map(reach_of, cases)),
        tuple(bases),
        tuple(map(pairs_of, cases)),
        tuple(map(extrapolation_of, cases)),
        effective_lengths(subject),
        tuple(map(decay_of, cases)),
        tuple(filter(None, map(stretch_of, bases))),
        tuple(cost_of(subject.moments[-1], length) for length in lengths),
    )


def _bases(cases: Sequence[Case], lengths: Sequence[int]) -> list[Bases]:
    """Returns the bases for the lengths asked, of the last case of each full kind, and for the limits of others."""
    last = {case.kind.name: case for case in cases}
    return [
        bases_for(case, length)
        for case in last.values()
        for length in (lengths if case.full else (case.kind.sees,))
    ]
