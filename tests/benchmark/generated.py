"""How fast generated documents are read and counted: millions of tokens per second of one core.

    PYTHONPATH=.:tests python tests/benchmark/generated.py

`read` makes tokens and labels of whole documents, `piece` of pieces of 4,096 tokens in the middle; `count` is what the
planner asks for each span, in millions of counts per second. CPU time of the process; the fastest of five rounds.
Prints the table and writes `outputs/benchmarks/generated.json`.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.config import DataConfig
from data.generated.copied_span import Copy
from data.generated.key_value import KeyValue
from data.generated.source import GeneratedSource
from data.generated.tasks import GeneratedConfig
from data.generated.uniform import Uniform
from data.sources import generate
from data.tokens.declared import declared_generated

OUTPUT = Path("outputs/benchmarks/generated.json")
LENGTHS = (256, 4_096, 1_048_576)
PIECE = 4_096
ROUNDS = 5
Numbers = list[dict[str, Any]]


def tasks(length: int) -> tuple[GeneratedConfig, ...]:
    """Every task with documents of this length."""
    common = {"min_length": length, "max_length": length, "ids": 4_096}
    return (
        Copy(task="copy", **common),
        KeyValue(task="key_value", **common),
        Uniform(task="uniform", **common),
    )


def source(settings: GeneratedConfig) -> GeneratedSource:
    """The documents of these settings."""
    return generate(declared_generated("made", settings, DataConfig(), []), settings)


def rate(work: Callable[[int], int]) -> float:
    """Units per CPU second, in millions; work: does those of a document and returns how many they are."""
    best = 0.0
    for round_number in range(ROUNDS):
        started, done, document = time.process_time(), 0, 1_000 * round_number
        while (seconds := time.process_time() - started) < 0.1:
            done += work(document)
            document += 1
        best = max(best, done / seconds / 1e6)
    return best


def measure(settings: GeneratedConfig, length: int) -> dict[str, Any]:
    """The row of one task and length."""
    made = source(settings)
    middle, piece = length // 2, min(PIECE, length - length // 2)

    def read(document: int, start: int, tokens: int) -> int:
        made.read(document, start, tokens)
        made.label_mask(document, start, tokens)
        return tokens

    return {
        "task": settings.task,
        "length": length,
        "read": rate(lambda document: read(document, 0, length)),
        "piece": rate(lambda document: read(document, middle, piece)),
        "count": rate(lambda document: min(1, 1 + made.count_labels(document, 0, length))),
    }


def table(numbers: Numbers) -> str:
    """One row a task and length."""
    lines = [f"{'task':<10}{'document':>11}{'read':>9}{'piece':>9}{'count':>9}"]
    for row in numbers:
        head = f"{row['task']:<10}{row['length']:>11,}"
        lines.append(f"{head}{row['read']:>9.1f}{row['piece']:>9.1f}{row['count']:>9.2f}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, write the file."""
    found = [measure(settings, length) for length in LENGTHS for settings in tasks(length)]
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(table(found))


if __name__ == "__main__":
    main()
