"""Evaluates models one after the other on the ranks of one world."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from parallel.mesh import Mesh, arrange
from train.build_trainer import dealer
from train.evaluate.forward import build_predictor
from train.evaluate.prepare import Prepared
from train.evaluate.progress import Reporting
from train.evaluate.results import Results
from train.evaluate.subject import point_of
from train.evaluation.accuracy import make_task as make_accuracy
from train.evaluation.held_out import HeldOutLoss, StageCounts
from train.evaluation.long_perplexity import make_task as make_long_perplexity
from train.evaluation.prompts import PromptEvaluation, prompt_evaluations
from train.predictor import Predictor
from train.records.evaluation_rows import ACCURACY, LONG_PERPLEXITY
from train.records.metrics_log import finite_or_null
from train.schedule.stages import Point

Row = dict[str, Any]


class Evaluation(Protocol):
    """Interface: what a command needs of a task (train/evaluation/tasks.py)."""

    def evaluate(self, trainer: Predictor, point: Point) -> Mapping[str, Any]: ...

    def sentence(self, row: Mapping[str, Any]) -> str: ...


def evaluations(prepared: Prepared, mesh: Mesh) -> dict[str, Evaluation]:
    """Returns the tasks of a model by name, the loss on held-out documents first. Collective."""
    config, corpus = prepared.config, prepared.corpus
    deal = dealer(config.model, mesh, config.parallel, config.evaluation.keys_at_most)
    found: dict[str, Evaluation] = {}
    if prepared.held_out:
        assert corpus.heldout is not None, "it was checked"
        counts = StageCounts(config, mesh, corpus)
        found["held_out"] = HeldOutLoss(config, mesh, deal, corpus.heldout, counts)
    scored = make_accuracy(config, mesh, corpus, deal)
    if scored is not None:
        found[ACCURACY] = scored
    perplexity = make_long_perplexity(config, mesh, corpus, deal)
    if perplexity is not None:
        found[LONG_PERPLEXITY] = perplexity
    return found | prompt_evaluations(config, mesh, deal, prepared.text)


def run(subjects: Sequence[Prepared], results: Sequence[Results], mesh: Mesh) -> list[Row]:
    """Evaluates all models; the main rank says each result and writes it. Returns all rows. Collective.

    results: of each model. Their tasks are not evaluated again.

    Raises:
        ValueError, OSError: on every rank: a file of one cannot be read or written.
    """
    for prepared, kept in zip(subjects, results, strict=True):
        label = prepared.subject.label
        for row, sentence in _rows(prepared, kept, mesh):
            _tell(mesh, f"{label}: {row['task']}: {sentence}")
            mesh.together(partial(kept.add, row))
    return [row for kept in results for row in kept.rows]


def _rows(prepared: Prepared, kept: Results, mesh: Mesh) -> Iterator[tuple[Row, str]]:
    """Yields the row and the sentence of every task that is not done. Collective."""
    config, subject = prepared.config, prepared.subject
    mesh = arrange(mesh.world, config.parallel.topology(mesh.world_size))
    point = point_of(subject, config)
    asked = evaluations(prepared, mesh)
    due = {name: task for name, task in asked.items() if kept.row_of(name) is None}
    if len(due) < len(asked):
        done = ", ".join(name for name in asked if name not in due)
        _tell(mesh, f"{subject.label}: {done}: done before, see {kept.folder}")
    if not due:
        return
    predictor = build_predictor(
        replace(config, model=point.model),
        mesh,
        sequence_length=point.stage.shape.sequence_length,
        whole=subject.whole,
    )
    ranks = mesh.world_size // (mesh.tensor.size * mesh.pipeline.size)
    reporting = Reporting(predictor, partial(_tell, mesh), ranks=ranks)
    for name, task in due.items():
        expected = task.num_tokens(point) if isinstance(task, PromptEvaluation) else 0
        reporting.begin(f"{subject.label}: {name}", expected)
        row: Row = {
            "step": subject.state.step,
            "stage": subject.label,
            "tokens_seen": subject.state.tokens_seen,
            "task": name,
            **finite_or_null(task.evaluate(reporting, point)),
        }
        yield row, task.sentence(row)


def _tell(mesh: Mesh, line: str) -> None:
    """Says a line on the main rank; a terminal that is gone ends no rank."""
    if mesh.is_main:
        with suppress(OSError):
            sys.stderr.write(f"{line}\n")
