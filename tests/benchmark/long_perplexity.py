"""LongPPL's two forms of the loss with a short context, compared on one checkpoint.

    PYTHONPATH=.:tests python tests/benchmark/long_perplexity.py [--checkpoint PATH]

Without a checkpoint it trains `experiment=quickstart` first, or takes the one that it trained before. The documents are
the held-out ones of the run. For several short contexts K, with a step of K / 4: key tokens of both forms, LongPPL, and
Pearson correlations over tokens (of l_short and of l_short - l_long) and over documents (of LongPPL, those with a key
token in both forms). Prints the table and writes `outputs/benchmarks/long_perplexity.json`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.sources import Corpus, make_corpus, open_corpus
from parallel.mesh import Mesh, start
from parallel.topology import Topology
from train.configuration.compose import from_yaml
from train.configuration.long_context_settings import (
    LongPerplexityForm,
    OfficialLongPerplexity,
    WindowedLongPerplexity,
)
from train.configuration.schema import RunConfig
from train.evaluate.forward import build_predictor
from train.evaluate.options import read_options
from train.evaluate.subject import Subject, configuration_of, open_subject, point_of
from train.evaluation.key_tokens import KeyRule, Losses, summary
from train.evaluation.long_perplexity import LongPerplexity

OUTPUT = Path("outputs/benchmarks/long_perplexity.json")
RUNS = Path("outputs/benchmarks/long_perplexity")
# Short contexts, and the limits (alpha, beta) of key tokens: those of the paper, and narrower and wider ones.
CONTEXTS = (128, 256, 512, 1024)
LIMITS = ((2.0, 2.0), (1.0, 4.0), (0.25, 10.0))
MAX_TOKENS = 100_000
Numbers = dict[str, Any]


def trained() -> Path:
    """Train the quickstart, or go on with it."""
    command = [sys.executable, "-m", "train", "experiment=quickstart", "run_name=quickstart"]
    command += [f"paths.outputs={RUNS}", "evaluation.enabled=false", "logging.wandb.mode=disabled"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return RUNS / "quickstart"


def corpus_of(subject: Subject) -> Corpus:
    """The data of the run that made a checkpoint."""
    run = from_yaml((subject.folder.parent.parent / "config.yaml").read_text())
    make_corpus(run.data, run.paths.prepared, run.model.vocab_size)
    return open_corpus(run.data, run.paths.prepared, run.model.vocab_size)


class Measured:
    """Losses of one checkpoint on its held-out documents, by form and short context."""

    def __init__(self, path: Path, mesh: Mesh) -> None:
        self._subject, self._mesh = open_subject("checkpoint", path, "checkpoint"), mesh
        options = read_options(["--checkpoint", str(path), "--task", "held_out"])
        config: RunConfig = configuration_of(self._subject, options, 1)
        self._point, self.config = point_of(self._subject, config), config
        self.length = self._point.stage.shape.sequence_length
        self._predictor = build_predictor(
            config, mesh, sequence_length=self.length, whole=self._subject.whole
        )
        corpus = corpus_of(self._subject)
        assert corpus.heldout is not None, "the run has held-out documents"
        self._held_out = corpus.heldout

    @property
    def step(self) -> int:
        """Steps of training."""
        return self._subject.state.step

    def losses(self, wanted: LongPerplexityForm) -> Losses:
        """The losses of every token with both contexts."""
        task = LongPerplexity(wanted, self._mesh, None, self._held_out)
        return task.losses(self._predictor, self._point)


def pearson(first: np.ndarray, second: np.ndarray) -> float | None:
    """The correlation; None of fewer than three pairs, or of a constant."""
    if len(first) < 3 or not first.std() or not second.std():
        return None
    return float(np.corrcoef(first, second)[0, 1])


def compared(official: Losses, windowed: Losses, context: int) -> Numbers:
    """Numbers of one short context."""
    long_N, short_N, counts_N = official.values
    assert np.allclose(long_N, windowed.values[0], atol=1e-4), "one model, one context"
    # A token with a short context, which is 0 for no other.
    candidate_N = (counts_N > 0) & (short_N != 0)
    long_N, short_N, other_N = (x[candidate_N] for x in (long_N, short_N, windowed.values[1]))
    limits = []
    for alpha, beta in LIMITS:
        rule = KeyRule(context, alpha, beta)
        mine, theirs = rule.keys(long_N, short_N), rule.keys(long_N, other_N)
        by_span = [one.by_span(rule) for one in (official, windowed)]
        both = (by_span[0][:, 3] > 0) & (by_span[1][:, 3] > 0)
        of_documents = [np.exp(one[both, 4] / one[both, 3]) for one in by_span]
        limits.append(
            {
                "alpha": alpha,
                "beta": beta,
                "key_tokens": [int(mine.sum()), int(theirs.sum()), int((mine & theirs).sum())],
                "long_perplexity": [summary(one)["long_perplexity"] for one in by_span],
                "documents": int(both.sum()),
                "correlation_of_documents": pearson(*of_documents),
                "correlation_of_key_sets": pearson(mine.astype(float), theirs.astype(float)),
            }
        )
    return {
        "context": context,
        "candidates": len(long_N),
        "correlation_of_short_losses": pearson(short_N, other_N),
        "correlation_of_gains": pearson(short_N - long_N, other_N - long_N),
        "mean_gain": [float((short_N - long_N).mean()), float((other_N - long_N).mean())],
        "limits": limits,
    }


def measured(path: Path) -> Numbers:
    """All numbers of one checkpoint."""
    found = Measured(path, start(torch.device("cpu"), 60, Topology()))
    contexts = []
    for context in CONTEXTS:
        options: dict[str, Any] = {"context_tokens": context, "max_tokens": MAX_TOKENS}
        official = found.losses(OfficialLongPerplexity(**options, step_tokens=context // 4))
        windowed = found.losses(WindowedLongPerplexity(**options))
        contexts.append(compared(official, windowed, context))
        sys.stderr.write(f"{contexts[-1]}\n")
    plain = summary(official.by_span(KeyRule(1, *LIMITS[0])))
    model = found.config.model
    return {
        "step": found.step,
        "length": found.length,
        "layers": list(model.layer_pattern),
        "window": model.window,
        "tokens": plain["tokens"],
        "perplexity": plain["perplexity"],
        "contexts": contexts,
    }


def table(numbers: Numbers) -> str:
    """Two lines of head, then tables by short context, and by short context and limits."""

    def shown(value: float | None, form: str = ".3f") -> str:
        return "-" if value is None else f"{value:{form}}"

    lines = [
        f"after {numbers['step']:,} steps: {numbers['tokens']:,} held-out tokens at length {numbers['length']:,}, "
        f"perplexity {numbers['perplexity']:.2f}",
        f"layers {', '.join(numbers['layers'])}; window {numbers['window']}",
        "",
        f"{'K':>5}{'candidates':>12}{'mean gain, nats':>18}{'r of l_short':>14}{'r of gains':>12}",
    ]
    for one in numbers["contexts"]:
        gains = "{:.4f} / {:.4f}".format(*one["mean_gain"])
        lines.append(
            f"{one['context']:>5}{one['candidates']:>12,}{gains:>18}"
            f"{shown(one['correlation_of_short_losses'], '.5f'):>14}"
            f"{shown(one['correlation_of_gains'], '.4f'):>12}"
        )
    heads = f"{'K':>5}{'alpha':>7}{'beta':>6}{'key tokens':>16}{'in both':>9}{'r of sets':>11}"
    lines += ["", f"{heads}{'LongPPL':>20}{'documents':>11}{'r of documents':>16}"]
    for one in numbers["contexts"]:
        for limit in one["limits"]:
            mine, theirs, both = limit["key_tokens"]
            perplexities = " / ".join(map(shown, limit["long_perplexity"]))
            lines.append(
                f"{one['context']:>5}{limit['alpha']:>7g}{limit['beta']:>6g}{f'{mine:,} / {theirs:,}':>16}"
                f"{both:>9,}{shown(limit['correlation_of_key_sets']):>11}{perplexities:>20}"
                f"{limit['documents']:>11}{shown(limit['correlation_of_documents']):>16}"
            )
    return "\n".join([*lines, "", "pairs of numbers: official / windowed"]) + "\n"


def main() -> None:
    """Print the table, write the file."""
    parser = argparse.ArgumentParser(description="Compare the two forms of LongPPL.")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint or a run's folder")
    given = parser.parse_args()
    torch.set_num_threads(1)
    numbers = measured(given.checkpoint or trained())
    sys.stdout.write(table(numbers))
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
