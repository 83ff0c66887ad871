"""Fixtures that more than one folder of tests uses."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

# Before anything imports torch or deepspeed, and for the processes that tests start: the CPU, also on a GPU host.
os.environ["DS_ACCELERATOR"] = "cpu"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

pytest_plugins = ["tests.cpu_seconds"]

# `make test` draws the same examples every time; `pytest --hypothesis-profile soak` others, and ten times as many.
settings.register_profile("make_test", deadline=None, derandomize=True)
settings.register_profile("soak", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("make_test")


class SmallCorpus(NamedTuple):
    """Token files of some generated documents: prefixes of the training and held-out part."""

    train: str
    heldout: str
    tokenizer: str
    vocab_size: int


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> SmallCorpus:
    """60 documents of 20 to 4,000 words, seeded; 30,000 tokens or so."""
    # Here, so that files of pure integers do not import numpy and SentencePiece.
    from data.prepare.job import prepare
    from data.prepare.options import PrepareOptions
    from data.tokenizer.training import train_on_files

    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(5)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(1, 6))) for _ in range(150)]
    for number in range(60):
        length = int(20 * 200 ** draw.random())
        text = " ".join(draw.choices(words, k=length))
        (folder / f"document_{number:02d}.txt").write_text(text)
    tokenizer = folder / "tokenizer.model"
    files = sorted(str(path) for path in folder.glob("*.txt"))
    train_on_files(files, str(tokenizer), vocab_size=320)
    corpus = SmallCorpus(str(folder / "train"), str(folder / "heldout"), str(tokenizer), 320)
    prepare(
        PrepareOptions(
            inputs=tuple(files),
            output=corpus.train,
            tokenizer=str(tokenizer),
            workers=1,
            heldout_output=corpus.heldout,
            heldout_fraction=0.1,
            show_progress=False,
        )
    )
    return corpus


@pytest.fixture(scope="session")
def small_run(small_corpus: SmallCorpus) -> Callable[..., list[str]]:
    """Arguments of a run of seconds: two stages, 64 -> 128 tokens, float32, 20 steps."""

    def arguments(outputs: Path, **changes: str) -> list[str]:
        return _small_run(small_corpus, outputs, changes)

    return arguments


def _small_run(corpus: SmallCorpus, outputs: Path, changes: dict[str, str]) -> list[str]:
    values = {
        "run_name": "small",
        "paths.outputs": str(outputs),
        "data.corpus": "''",
        "+data.sources": "{all:{prefix:" + corpus.train + ",weight:1.0}}",
        "data.heldout": corpus.heldout,
        "data.look_ahead": "8",
        "model.vocab_size": str(corpus.vocab_size),
        "model.hidden_size": "32",
        "model.intermediate_size": "64",
        "model.num_heads": "2",
        "model.num_kv_heads": "1",
        "model.head_dim": "16",
        "model.window": "16",
        "schedule": "small",
        "logging.wandb.mode": "disabled",
        "checkpoint.every_steps": "0",
        "evaluation.max_tokens": "2048",
    }
    if changes.get("evaluation.enabled") == "false":
        del values["evaluation.max_tokens"]  # would have no effect
    return [f"{key}={value}" for key, value in (values | changes).items()]
