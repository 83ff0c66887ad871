"""Evaluates models one after the other on the ranks of one world, and writes what was found.

OUTPUT/LABEL/evaluation.jsonl, config.yaml    of each model, as in a run's folder
OUTPUT/report.html                            all of them, with pictures
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from data.files import write_durably
from parallel.mesh import Mesh, arrange
from train.build_trainer import dealer
from train.configuration.compose import to_yaml
from train.evaluate.forward import build_predictor
from train.evaluate.prepare import Prepared
from train.evaluate.subject import point_of
from train.evaluation.held_out import HeldOutLoss, StageCounts
from train.evaluation.long_perplexity import make_task as make_long_perplexity
from train.evaluation.prompts import prompt_evaluations
from train.predictor import Predictor
from train.records.evaluation_rows import LONG_PERPLEXITY
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
        assert corpus is not None, "it was checked"
        assert corpus.heldout is not None, "it was checked"
        counts = StageCounts(config, mesh, corpus)
        found["held_out"] = HeldOutLoss(config, mesh, deal, corpus.heldout, counts)
    if config.evaluation.long_perplexity is not None:
        assert corpus is not None, "it was checked"
        task = make_long_perplexity(config, mesh, corpus, deal)
        assert task is not None, "it was checked"
        found[LONG_PERPLEXITY] = task
    return found | prompt_evaluations(config, mesh, deal, prepared.text)


def rows(prepared: Prepared, mesh: Mesh) -> Iterator[tuple[Row, str]]:
    """Yields the row and the sentence of every task of a model. Collective."""
    config, state = prepared.config, prepared.subject.state
    mesh = arrange(mesh.world, config.parallel.topology(mesh.world_size))
    point = point_of(prepared.subject, config)
    predictor = build_predictor(
        replace(config, model=point.model),
        mesh,
        sequence_length=point.stage.shape.sequence_length,
        whole=prepared.subject.whole,
    )
    for name, task in evaluations(prepared, mesh).items():
        row: Row = {
            "step": state.step,
            "stage": prepared.subject.label,
            "tokens_seen": state.tokens_seen,
            "task": name,
            **finite_or_null(task.evaluate(predictor, point)),
        }
        yield row, task.sentence(row)


def run(subjects: Sequence[Prepared], mesh: Mesh, output: Path | None) -> list[Row]:
    """Evaluates all models; the main rank says each result and writes it. Returns all rows. Collective."""
    found = []
    for prepared in subjects:
        of_subject = []
        for row, sentence in rows(prepared, mesh):
            of_subject.append(row)
            if mesh.is_main:
                sys.stderr.write(f"{prepared.subject.label}: {row['task']}: {sentence}\n")
                if output is not None:
                    _write(output / prepared.subject.label, prepared, of_subject)
        found += of_subject
    return found


def _write(folder: Path, prepared: Prepared, of_subject: Sequence[Row]) -> None:
    """Writes what was found so far, so that a stopped command loses one task at most."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in of_subject)
    write_durably(folder / "evaluation.jsonl", lines)
    write_durably(folder / "config.yaml", to_yaml(prepared.config))
