"""Accuracy and greedy decoding under every layout are those of one process that decodes token by token in float64."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data.generated.posgen import PosGen
from data.sources import generate
from data.tokens.declared import declared_generated
from model.at_step import AtStep
from model.attention.core import choose_core
from model.packed_layout import PackedLayout
from model.transformer import Transformer
from ranks import run_on_ranks
from train.configuration.compose import compose_run
from train.configuration.schema import RunConfig
from train.evaluation.accuracy import Accuracy
from train.job import run_job

# 7 tokens: BOS, a seed, one symbol that counts and the end token, so some documents have no error. 41 tokens: no number
# of ranks divides them, and dynamic NTK turns otherwise than at 32.
TRAINED, LENGTHS = 32, (7, 41)
DOCUMENTS, GREEDY = 7, 5
GENERATED = "{task: posgen, ids: 3, min_length: 30, max_length: 32, documents: 60, heldout: 8}"
STAGE = (
    "{tokens: 128, sequence_length: 32, batch_tokens: 128, micro_batch_tokens: 32, parallel: %s}"
)
TWO_RANKS = {
    "sequence": "{sequence: 2, zero_stage: 2}",
    "pipeline": "{pipeline: 2}",
    "sharded": "{zero_stage: 3}",
}
FOUR_RANKS = {
    "tensor": "{tensor: 2, sequence: 2}",
    "sharded": "{zero_stage: 3}",
    "pipeline": "{pipeline: 2, tensor: 2}",
    "uneven": "{sequence: 2, sequence_layout: zigzag, zero_stage: 3}",
}
CHANGES = {
    "data.heldout": "''",
    "+data.sources": f"{{p: {{generated: {GENERATED}}}}}",
    "data.bos_id": "4",
    "model.vocab_size": "6",
    "model.layer_pattern": "[window_rope,full_rope]",
    "+model.kinds.full_rope": "{rope: {scaling: dynamic_ntk, factor: 4.0, original_length: 20}}",
    "model.num_layers": "2",
    "model.init_std": "0.4",
    "model.num_kv_heads": "2",
    "evaluation.accuracy.lengths": str([*LENGTHS]).replace(" ", ""),
    "evaluation.accuracy.documents": str(DOCUMENTS),
    "evaluation.accuracy.greedy_documents": str(GREEDY),
    "evaluation.yardstick_tokens": "100",
    "checkpoint.keep": "9",
    "preflight.enabled": "false",
}


def run_of_layouts(small_run: Callable[..., list[str]], outputs: Path, layouts: Any) -> RunConfig:
    """A run of one step in each layout, with an evaluation and a checkpoint after each."""
    schedule = outputs / "layouts.yaml"
    stages = ", ".join(f"{name}: {STAGE % layout}" for name, layout in layouts.items())
    rate = "{shape: constant, peak: 1.0e-3}"
    schedule.write_text(f"{{learning_rate: {rate}, stages: {{{stages}}}}}")
    return compose_run(small_run(outputs, **CHANGES, schedule=str(schedule)))


def oracle(config: RunConfig, checkpoint: Path) -> Iterator[dict[str, Any]]:
    """The entries of a row: every token that is decoded is a forward of its own, in float64."""
    weights = {
        name.removeprefix("weight/"): tensor.double()
        for path in checkpoint.glob("*.safetensors")
        for name, tensor in load_file(path).items()
        if name.startswith("weight/")
    }
    core = choose_core("dense", torch.device("cpu"), torch.float64)
    model = Transformer(config.model, core).double()
    model.load_state_dict(weights)
    for length in LENGTHS:
        at = AtStep(
            AtStep.of(config.model, 10_000.0).specs, 10_000.0, (TRAINED,), asked_length=length
        )

        def predicted(tokens: list[int], at: AtStep = at) -> list[int]:
            layout = PackedLayout.from_lengths([len(tokens)])
            with torch.no_grad():
                hidden_TD = model(torch.tensor(tokens), layout, at)
                return model.logits(hidden_TD).argmax(1).tolist()

        wanted = PosGen(
            task="posgen", ids=3, min_length=length, max_length=length, documents=60, heldout=8
        )
        source = generate(declared_generated("p", wanted, config.data, []), wanted, held_out=True)
        documents = [source.read(number, 0, length).tolist() for number in range(DOCUMENTS)]
        places = range(5, length - 1)  # after the seed, without the end token
        given = [
            [after[n - 1] == x[n] for n in places]
            for x, after in zip(documents, map(predicted, documents), strict=True)
        ]
        greedy = []
        for x in documents[:GREEDY]:
            made = x[:5]
            for _ in places:
                made.append(predicted(made)[-1])
            greedy.append([made[n] == x[n] for n in places])
        yield {
            "length": length,
            "documents": DOCUMENTS,
            **shares(given, length),
            "greedy": {
                "documents": GREEDY,
                "decoded": sum(not all(right) for right in given[:GREEDY]),
                **shares(greedy, length),
            },
        }


def shares(right: list[list[bool]], length: int) -> dict[str, Any]:
    of_place = np.zeros((len(right), length))
    of_place[:, 5 : length - 1] = right
    counted = np.zeros(length, dtype=bool)
    counted[5 : length - 1] = True

    def share(start: int, end: int) -> float | None:
        here = of_place[:, start:end][:, counted[start:end]]
        return here.mean() if here.size else None

    edges = [0, *(edge for edge in (32,) if edge < length), length]
    return {
        "tokens": len(right) * int(counted.sum()),
        "accuracy": share(0, length),
        "accuracy_below": share(0, TRAINED),
        "accuracy_from": share(TRAINED, length),
        "position_buckets": [
            {
                "start": start,
                "end": end,
                "tokens": len(right) * int(counted[start:end].sum()),
                "accuracy": share(start, end),
            }
            for start, end in itertools.pairwise(edges)
        ],
    }


def compare(found: Any, wanted: Any) -> None:
    """Shares are quotients of the same integers."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            compare(found[key], value)
    elif isinstance(wanted, list):
        for one, other in zip(found, wanted, strict=True):
            compare(one, other)
    else:
        assert found == (pytest.approx(wanted, rel=1e-12) if wanted else wanted)


def check(small_run: Callable[..., list[str]], outputs: Path, layouts: Any, ranks: int) -> None:
    config = run_of_layouts(small_run, outputs, layouts)
    assert set(run_on_ranks(lambda *_: run_job(config), ranks)) == {0}
    rows = [
        json.loads(line) for line in (outputs / "small/evaluation.jsonl").read_text().splitlines()
    ]
    rows = [row for row in rows if row["task"] == "accuracy"]
    assert [row["stage"] for row in rows] == list(layouts)
    for row in rows:
        assert (row["source"], row["trained_length"]) == ("p", TRAINED)
        checkpoint = outputs / f"small/checkpoints/step_{row['step']:08}"
        compare(row["lengths"], list(oracle(config, checkpoint)))
        [short, *_] = (one["greedy"]["decoded"] for one in row["lengths"])
        assert 0 < short < GREEDY, "some documents are decoded, others are not"


def test_accuracy_is_that_of_one_process_on_two_ranks(
    small_run: Callable[..., list[str]], tmp_path: Path
) -> None:
    check(small_run, tmp_path, TWO_RANKS, 2)


@pytest.mark.slow
def test_accuracy_is_that_of_one_process_on_four_ranks(
    small_run: Callable[..., list[str]], tmp_path: Path
) -> None:
    check(small_run, tmp_path, FOUR_RANKS, 4)


def test_sentence_numbers_and_table_have_both_sides_of_the_training_length() -> None:
    def part(**more: Any) -> dict[str, Any]:
        buckets = [{"start": 0, "end": 32, "tokens": 9, "accuracy": 0.5}]
        return {"tokens": 1000, "accuracy": 0.5, "position_buckets": buckets, **more}

    greedy = part(documents=2, decoded=1, accuracy_below=0.5, accuracy_from=0.25)
    row = {
        **{"step": 3, "stage": "s", "tokens_seen": 9, "trained_length": 64},
        "lengths": [
            part(length=64, accuracy_below=0.5, accuracy_from=None, greedy=None),
            part(length=256, accuracy_below=0.75, accuracy_from=0.5, greedy=greedy),
        ],
    }
    assert Accuracy.sentence(row) == (
        "length 64: 0.500 (1,000 labelled tokens); length 256: 0.750 below place 64 and 0.500 from it on (1,000 "
        "labelled tokens), greedy 0.500 below place 64 and 0.250 from it on"
    )
    assert Accuracy.numbers(row) == {
        "accuracy/accuracy_64": 0.5,
        "accuracy/accuracy_below_64": 0.5,
        "accuracy/accuracy_256": 0.5,
        "accuracy/accuracy_below_256": 0.75,
        "accuracy/accuracy_from_256": 0.5,
        "accuracy/greedy_accuracy_256": 0.5,
        "accuracy/greedy_accuracy_below_256": 0.5,
        "accuracy/greedy_accuracy_from_256": 0.25,
    }
    first, second = Accuracy.table([row])
    assert (first["length"], first["greedy_accuracy"]) == (64, None)
    assert (second["length"], second["greedy_accuracy"], second["start"]) == (256, 0.5, 0)
    assert first.keys() == second.keys()
