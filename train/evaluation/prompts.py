"""Long-context tasks: how often, by length and depth, one forward predicts every token of a prompt's answer.

A hit says that greedy decoding with the same rotation writes exactly these tokens (docs/evaluation.md). Beside it stand
the mean loss of the answers and the number of tokens before the first wrong one, which move long before the first hit.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from data.batch import Dealer
from data.prompts.catalogue import TASKS
from data.prompts.fill import Control, TooShort
from data.prompts.text import TextOfRun
from data.sources import Corpus
from data.text_encoder import open_encoder
from parallel.mesh import Mesh
from parallel.sequence.dealing import stream_multiple
from train.configuration.schema import RunConfig
from train.evaluation.prompt_plan import PromptPlan, prompt_plans
from train.evaluation.prompt_sets import Outline, PromptSet, PromptsOfLength
from train.evaluation.prompt_streams import PromptScore, Scorer
from train.predictor import Predictor
from train.records.console import number
from train.records.prompt_rows import PROMPTS, effective_length, scores_by_length
from train.schedule.stages import Point

_CONTROLS: tuple[Control, ...] = ("removed", "swapped")
_OF_EVALUATION = ("step", "stage", "tokens_seen", "trained_length")
_OF_CELL = ("length", "depth", "prompts", "hits", "loss", "first_wrong")
# Name of the score of the last part of the context only.
_LAST = "last_part"
# Scores of a cell beside its own.
_BESIDE = (_LAST, *_CONTROLS)


class PromptEvaluation:
    """The evaluation of one long-context task."""

    def __init__(
        self,
        plan: PromptPlan,
        mesh: Mesh,
        deal: Dealer | None,
        *,
        pad_id: int,
        every_steps: int,
    ) -> None:
        self._plan, self._settings, self._task = plan, plan.settings, TASKS[plan.task]
        self._mesh, self._deal, self._pad_id = mesh, deal, pad_id
        self.every_steps = every_steps
        self._made: dict[int, PromptsOfLength] = {}
        self._joined_otherwise: list[str] | None = None

    def evaluate(self, trainer: Predictor, point: Point) -> dict[str, Any]:
        """Returns the scores by length and depth. Collective.

        Raises:
            ValueError, OSError: on every rank: one of them could not make its prompts.
        """
        cells, too_short = list[dict[str, Any]](), list[int]()
        for length in self._settings.lengths_at(point.stage.shape.sequence_length):
            try:
                cells += self._of_length(trainer, point, length)
            except TooShort:  # given lengths were checked before, see `prompt_evaluations`
                too_short.append(length)
        prompts = sum(cell["prompts"] for cell in cells)
        return {
            "kind": PROMPTS,
            "of": self._plan.task,
            "judged": self._task.judged,
            "chance": self._task.chance,
            "trained_length": point.lengths[-1],
            "prompts": prompts,
            "hit_share": sum(cell["hits"] for cell in cells) / prompts if cells else None,
            "loss": sum(cell["loss"] * cell["prompts"] for cell in cells) / prompts
            if cells
            else None,
            "too_short": too_short,
            "joined_otherwise": self._borders(),
            "cells": cells,
        }

    def num_tokens(self, point: Point) -> int:
        """Returns about how many tokens an evaluation scores, those of controls and last parts included."""
        lengths = self._settings.lengths_at(point.stage.shape.sequence_length)
        passes = 1 + len(_CONTROLS if self._settings.controls else ())
        last = sum(min(length, self._settings.last_tokens or 0) for length in lengths)
        return len(self._plan.depths) * self._plan.each * (passes * sum(lengths) + last)

    @staticmethod
    def sentence(row: Mapping[str, Any]) -> str:
        """Returns share of hits and loss of the answers at each length, as a sentence."""
        said = [
            f"length {length:,}: {number(one.share)} of {one.prompts:,} answers predicted, loss {number(one.loss)}"
            for length, one in scores_by_length(row["cells"]).items()
        ]
        said += [f"length {length:,}: too short for a prompt" for length in row["too_short"]]
        if borders := row["joined_otherwise"]:
            said.append(f"whole text has other tokens at {len(borders)} border(s), as {borders[0]}")
        return "; ".join(said)

    @staticmethod
    def numbers(row: Mapping[str, Any]) -> dict[str, float]:
        """Returns share of hits and loss of the answers at each length, and the effective length.

        The length stands at the end of a name. Shares and losses of the last part only and of the controls have its
        name before theirs.
        """
        found = dict[str, float]()
        for part in ("", *_BESIDE):
            scores = scores_by_length(row["cells"], part)
            for length, one in scores.items():
                name = f"{row['task']}/{part}{'_' if part else ''}"
                found[f"{name}hit_share_{length}"] = one.share
                if one.loss is not None:
                    found[f"{name}loss_{length}"] = one.loss
            effective = effective_length({length: one.share for length, one in scores.items()})
            if effective is not None and not part:
                found[f"{row['task']}/effective_length"] = effective
        return found

    @staticmethod
    def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns, for every evaluation, a line for each length and depth; None for a score that a cell lacks."""
        return [
            {key: row[key] for key in _OF_EVALUATION}
            | {key: cell[key] for key in _OF_CELL}
            | {
                f"{part}_{key}": (cell.get(part) or {}).get(key)
                for part in _BESIDE
                for key in ("hits", "loss")
            }
            for row in rows
            for cell in row["cells"]
        ]

    def _of_length(self, trainer: Predictor, point: Point, length: int) -> list[dict[str, Any]]:
        """Returns the cells of one length. Collective.

        Raises:
            TooShort: on every rank: a prompt has no room in the length.
        """
        of, scorer = self._of(length), self._scorer(point)
        prompts = of.prompts()
        found = self._cells(length, prompts, _scored(scorer, trainer, point, prompts))
        beside = dict[str, PromptSet]()
        if self._settings.last_tokens:
            beside[_LAST] = of.last_parts()
        if self._settings.controls:
            beside |= {control: of.prompts(control) for control in _CONTROLS}
        for name, others in beside.items():
            cells = self._cells(length, others, _scored(scorer, trainer, point, others))
            found = [cell | {name: _brief(other)} for cell, other in zip(found, cells, strict=True)]
        return found

    def _scorer(self, point: Point) -> Scorer:
        stage, mesh = point.stage, self._mesh
        share = stream_multiple(stage.parallel.sequence_layout, mesh.sequence.size)
        return Scorer(
            mesh=mesh,
            deal=self._deal,
            micro_batch_tokens=stage.shape.micro_batch_tokens,
            multiple=mesh.tensor.size * share,
            pad_id=self._pad_id,
            windows=point.windows,
        )

    def _of(self, length: int) -> PromptsOfLength:
        """Returns the prompts of all cells of a length; their outlines are found once. Collective.

        Raises:
            TooShort: on every rank: a prompt has no room in the length.
        """
        if length not in self._made:
            self._made[length] = PromptsOfLength(self._plan, length, self._mesh)
        return self._made[length]

    def _borders(self) -> list[str]:
        if self._joined_otherwise is None:
            self._joined_otherwise = self._plan.joined_otherwise()
        return self._joined_otherwise

    def _cells(
        self, length: int, prompts: PromptSet, scores: Sequence[PromptScore]
    ) -> list[dict[str, Any]]:
        """Returns the row's part of every cell of a length."""
        found = []
        for index, depth in enumerate(self._plan.depths):
            part = slice(index * self._plan.each, (index + 1) * self._plan.each)
            if self._task.candidates > 1:
                numbers = _by_likelihood(
                    prompts.outlines[part], scores[part], self._task.candidates
                )
            else:
                numbers = _by_hit(scores[part])
            found.append({"length": length, "depth": depth, **numbers})
        return found


def _scored(
    scorer: Scorer, trainer: Predictor, point: Point, prompts: PromptSet
) -> list[PromptScore]:
    """Returns the scores of prompts, those of one length together. Collective."""
    groups = defaultdict[int, list[int]](list)
    for index, one in enumerate(prompts.outlines):
        groups[one.tokens].append(index)
    found = dict[int, PromptScore]()
    for length, members in sorted(groups.items()):
        at = replace(point.at, asked_length=length)
        scores = scorer.scores(trainer, prompts.some(members), at)
        found |= zip(members, scores, strict=True)
    return [found[index] for index in range(len(prompts.outlines))]


def _by_hit(scores: Sequence[PromptScore]) -> dict[str, Any]:
    return {
        "prompts": len(scores),
        "hits": sum(one.hit for one in scores),
        "loss": fmean(one.loss for one in scores),
        "first_wrong": fmean(one.first_wrong for one in scores),
    }


def _by_likelihood(
    prompts: Sequence[Outline], scores: Sequence[PromptScore], candidates: int
) -> dict[str, Any]:
    """Scores each question by the candidate with the smallest loss; loss and first_wrong are those of the right one."""
    hits, right = 0, list[PromptScore]()
    for first in range(0, len(scores), candidates):
        group = range(first, first + candidates)
        best = min(group, key=lambda index: scores[index].losses.sum())
        hits += prompts[best].right
        right += [scores[index] for index in group if prompts[index].right]
    return _by_hit(right) | {"prompts": len(scores) // candidates, "hits": hits}


def _brief(cell: Mapping[str, Any]) -> dict[str, Any]:
    return {key: cell[key] for key in ("hits", "loss", "first_wrong")}


def make_prompt_tasks(
    config: RunConfig, mesh: Mesh, corpus: Corpus, deal: Dealer | None
) -> dict[str, PromptEvaluation]:
    """Returns the long-context tasks of a run by name; none if it names none.

    Raises:
        ValueError, OSError: on every rank: there is no tokenizer, or a file of a task cannot be read.
    """
    if not config.evaluation.tasks:
        return {}
    return prompt_evaluations(config, mesh, deal, mesh.together(lambda: _text(config, corpus)))


def prompt_evaluations(
    config: RunConfig, mesh: Mesh, deal: Dealer | None, text: TextOfRun
) -> dict[str, PromptEvaluation]:
    """Returns the long-context tasks that a configuration names, in this text. Collective.

    Raises:
        ValueError, OSError: on every rank: see `prompt_plans`.
    """
    usual = config.evaluation.every_steps
    return {
        name: PromptEvaluation(
            plan,
            mesh,
            deal,
            pad_id=text.eos_id,
            every_steps=usual if plan.settings.every_steps is None else plan.settings.every_steps,
        )
        for name, plan in mesh.together(lambda: prompt_plans(config, text)).items()
    }


def _text(config: RunConfig, corpus: Corpus) -> TextOfRun:
    source = next((one for one in corpus.sources if not one.is_generated), corpus.sources[0])
    encoder = open_encoder(config.data, config.paths.prepared, config.model.vocab_size, source)
    held = corpus.heldout
    documents = None if held is None or held.is_generated else held
    return TextOfRun(encoder, source.eos_id, source.bos_id, documents)
