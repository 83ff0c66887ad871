"""Accuracy on generated documents of given lengths: the share of labelled tokens that the model predicts.

A token is predicted if it is the most probable one (the lowest id among equals) after the true tokens before it. Its
place is its number in the document, from 0, so a place from the training length on is one that training never had.
Greedy decoding of some of the documents is scored beside it. Methods that depend on a length are given the length
asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from data.batch import Dealer
from data.generated.source import GeneratedSource
from data.packing.positions import Placing
from data.sources import Corpus, held_out_of_length
from parallel.mesh import Mesh
from parallel.sequence.dealing import stream_multiple
from train.configuration.schema import RunConfig, run_folder
from train.evaluation.scoring import Documents, Scored
from train.predictor import Predictor
from train.records.console import number, say
from train.records.evaluation_rows import ACCURACY
from train.schedule.stages import Point

NAME = ACCURACY
# Columns of the table.
_OF_EVALUATION = ("step", "stage", "tokens_seen", "trained_length")


class Accuracy:
    """The task."""

    def __init__(
        self, config: RunConfig, mesh: Mesh, deal: Dealer | None, source: GeneratedSource
    ) -> None:
        self._config, self._mesh, self._deal, self._source = config, mesh, deal, source
        self.every_steps = config.evaluation.every_steps

    def evaluate(self, trainer: Predictor, point: Point) -> dict[str, Any]:
        """Returns the accuracy at every length. Collective.

        Raises:
            ValueError, OSError: on every rank: one of them could not make its documents.
        """
        return {
            "source": self._source.name,
            "trained_length": point.lengths[-1],
            "lengths": [
                self._of_length(trainer, point, length)
                for length in self._config.evaluation.accuracy.lengths
            ],
        }

    @staticmethod
    def sentence(row: Mapping[str, Any]) -> str:
        """Returns the accuracy at each length, below and from the training length, as a sentence."""
        trained = f"{row['trained_length']:,}"
        return "; ".join(
            f"length {one['length']:,}: {_words(one, trained)} ({one['tokens']:,} labelled tokens)"
            + (f", greedy {_words(one['greedy'], trained)}" if one["greedy"] else "")
            for one in row["lengths"]
        )

    @staticmethod
    def numbers(row: Mapping[str, Any]) -> dict[str, float]:
        """Returns the accuracies of every length, with the length at the end of their names."""
        return {
            f"{NAME}/{kind}{name}_{one['length']}": found[name]
            for one in row["lengths"]
            for kind, found in (("", one), ("greedy_", one["greedy"] or {}))
            for name in ("accuracy", "accuracy_below", "accuracy_from")
            if found.get(name) is not None
        }

    @staticmethod
    def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns, for every evaluation and length, a line for each bucket of places."""
        return [
            {key: row[key] for key in _OF_EVALUATION} | {"length": one["length"]} | part
            for row in rows
            for one in row["lengths"]
            for part in _with_greedy(one)
        ]

    def _of_length(self, trainer: Predictor, point: Point, length: int) -> dict[str, Any]:
        wanted, trained = self._config.evaluation.accuracy, point.lengths[-1]
        bucket = wanted.bucket_tokens
        documents = self._documents(point, length)
        scored = Scored(trainer, documents, replace(point.at, asked_length=length))
        counts = scored.given_truth(range(wanted.documents))
        found = {"length": length, "documents": wanted.documents, **counts.shares(trained, bucket)}
        if not wanted.greedy_documents:
            return found | {"greedy": None}
        wrong = counts.wrong[: wanted.greedy_documents]
        greedy = scored.greedy(wrong > 0, self._say)
        told = {"documents": len(wrong), "decoded": int((wrong > 0).sum())}
        return found | {"greedy": told | greedy.shares(trained, bucket)}

    def _documents(self, point: Point, length: int) -> Documents:
        stage, mesh = point.stage, self._mesh
        settings = self._config.data.generated[self._source.name]
        multiple = mesh.tensor.size * stream_multiple(
            stage.parallel.sequence_layout, mesh.sequence.size
        )
        return Documents(
            source=held_out_of_length(self._source, settings, length),
            length=length,
            row_length=-(-length // multiple) * multiple,
            micro_batch_tokens=stage.shape.micro_batch_tokens,
            placing=Placing(stage.shape.rules, windows=point.windows),
            mesh=mesh,
            deal=self._deal,
        )

    def _say(self, line: str) -> None:
        if self._mesh.is_main:
            say(line, run_folder(self._config) / "log.txt")


def _words(found: Mapping[str, Any], trained: str) -> str:
    """Returns the accuracy of a row's part as words: of both sides of the training length where there are two."""
    below, beyond = found["accuracy_below"], found["accuracy_from"]
    if below is None or beyond is None:
        return number(found["accuracy"])
    return f"{number(below)} below place {trained} and {number(beyond)} from it on"


def _with_greedy(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the buckets of one length, with the accuracy of greedy decoding in the same bucket; None without it."""
    buckets = found["position_buckets"]
    decoded = found["greedy"]["position_buckets"] if found["greedy"] else [{}] * len(buckets)
    return [
        {**bucket, "greedy_accuracy": greedy.get("accuracy")}
        for bucket, greedy in zip(buckets, decoded, strict=True)
    ]


def make_task(
    config: RunConfig, mesh: Mesh, corpus: Corpus, deal: Dealer | None
) -> Accuracy | None:
    """Returns the task; None if no length is asked for."""
    wanted = config.evaluation.accuracy
    if not wanted.lengths:
        return None
    name = wanted.source_of(config.data.generated)
    source = next(one for one in corpus.sources if one.name == name)
    assert isinstance(source, GeneratedSource), "the configuration was checked"
    return Accuracy(config, mesh, deal, source)
