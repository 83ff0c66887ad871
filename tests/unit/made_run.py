"""A made-up run of three stages (256, 1024, 4096 tokens) whose every number is known, and its page taken apart."""

import json
import math
import random
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped,unused-ignore]

from train.report.page import HERE, write_report

Row = dict[str, Any]
STAGES: dict[str, Row] = {
    "short": {"tokens": 1_638_400, "sequence_length": 256, "rope_base": 10_000.0},
    "middle": {"tokens": 1_228_800, "sequence_length": 1024, "rope_base": 100_000.0},
    "long": {"tokens": 409_600, "sequence_length": 4096, "rope_base": 1_000_000.0},
}
# What the cartesian bundle draws; report and heat maps of later pages need no more.
DRAWN = {"bar", "box", "contour", "heatmap", "histogram", "scatter"}
BATCH, RATE, UNIGRAM, BIGRAM = 8192, 3e-3, 6.61, 4.72
PER_STAGE = [
    "loss",
    "sequence_length",
    "rope_base",
    "learning_rate",
    "gradient_norm",
    "tokens_per_second",
    "padding_fraction",
]


def made_steps(stages: dict[str, Row] = STAGES) -> list[Row]:
    """400 steps of a plausible run; step 37 is skipped with an infinite norm."""
    rng, rows, seen = random.Random(5), list[Row](), 0
    total = sum(stage["tokens"] for stage in stages.values())
    for name, stage in stages.items():
        for _ in range(stage["tokens"] // BATCH):
            seen += BATCH
            step, done = len(rows) + 1, seen / total
            rate = RATE * min(1.0, step / 20) * (1 if done < 0.8 else (1 - done) / 0.2 * 0.9 + 0.1)
            slow = 1 + 0.15 * math.log2(stage["sequence_length"] / 256) / 2
            seconds = 0.21 * slow * rng.uniform(0.93, 1.12)
            padding = rng.uniform(0.2, 1.0) * stage["sequence_length"] / 256 * 2e-3
            rows.append(
                {
                    "step": step,
                    "stage": name,
                    "tokens_seen": seen,
                    "valid_tokens": round(BATCH * (1 - padding)) - 40,
                    "loss": 3.55 + 4.9 * math.exp(-seen / 5e5) + rng.gauss(0, 0.06),
                    "gradient_norm": (0.35 + 2.2 * math.exp(-step / 25))
                    * rng.lognormvariate(0, 0.2),
                    "learning_rate": rate,
                    "rope_base": stage["rope_base"],
                    "sequence_length": stage["sequence_length"],
                    "padding_fraction": padding,
                    "step_seconds": seconds,
                    "tokens_per_second": BATCH / seconds,
                    "model_flops_per_second": 6 * 4.2e6 * BATCH / seconds,
                    "peak_memory_bytes": 1_400_000_000,
                    "batch_tokens": BATCH,
                    "skipped": step == 37,
                    "seconds": {
                        "data": 0.006,
                        "forward_backward": 0.86 * seconds,
                        "optimizer": 0.09 * seconds,
                    },
                }
            )
            if step == 37:
                rows[-1] |= {"loss": math.nan, "gradient_norm": math.inf}
    return rows


def made_evaluations(steps: list[Row]) -> list[Row]:
    """One evaluation every 80 steps and at each stage's end, with octave buckets of position."""
    rows = list[Row]()
    for row, after in zip(steps, [*steps[1:], {"stage": None}], strict=True):
        if row["step"] % 80 and row["stage"] == after["stage"]:
            continue
        length, loss = row["sequence_length"], 3.5 + 4.8 * math.exp(-row["tokens_seen"] / 5e5)
        edges = [0, *(2**octave for octave in range(4, round(math.log2(length)) + 1))]
        buckets = [
            {
                "start": start,
                "end": end,
                "loss": loss + 0.55 - 0.075 * math.log2(end),
                "tokens": (end - start) * 24,
                "unigram_loss": UNIGRAM,
                "bigram_loss": BIGRAM + 0.02 * math.sin(end),
            }
            for start, end in pairwise(edges)
        ]
        rows.append(
            {key: row[key] for key in ("step", "stage", "tokens_seen", "sequence_length")}
            | {"loss": loss, "tokens": length * 24, "rows": 24, "position_buckets": buckets}
            | {"unigram_loss": UNIGRAM, "bigram_loss": BIGRAM}
            | {"first_quarter_loss": loss + 0.06, "last_quarter_loss": loss - 0.034}
            | {"last_500_loss": loss - 0.05 if length > 500 else None}
        )
    return rows


def made_prompts(evaluations: list[Row], tasks: Sequence[str]) -> list[Row]:
    """A row of every task beside each held-out evaluation; a task's share falls with depth and beyond its length.

    The first task has no depth, all have the score of the last 64 tokens beside their own.
    """
    rows = list[Row]()
    for row in evaluations:
        for number, task in enumerate(tasks):
            trained, cells = row["sequence_length"], list[Row]()
            for length in (trained // 4, trained // 2, trained, 2 * trained):
                for depth in (0.0, 0.25, 0.5, 0.75, 1.0) if number or len(tasks) == 1 else (None,):
                    known = min(1.0, row["tokens_seen"] / 2e6 / (1 + number / 4))
                    far = 0.3 if length > trained else 1.0 - 0.2 * (1 - (depth or 0.5))
                    hits = round(20 * known * far)
                    cells.append(
                        {"length": length, "depth": depth, "prompts": 20, "hits": hits}
                        | {"loss": 2.3 * (1 - hits / 21), "first_wrong": hits / 10}
                        | {"last_part": {"hits": hits // 5, "loss": 2.1, "first_wrong": 0.5}}
                    )
            rows.append(
                {key: row[key] for key in ("step", "stage", "tokens_seen")}
                | {"task": task, "kind": "prompts", "of": task, "judged": "exact"}
                | {"trained_length": trained, "prompts": 20 * len(cells), "cells": cells}
            )
    return rows


# Tokens of "code" stand in documents of at most 256, those of "books" half in documents of at most 8,192.
START: Row = {
    "started": "2025-01-31T10:02:05+00:00",
    "step": 0,
    "total_tokens": 3_276_800,
    "command": ["/usr/bin/python", "-m", "train", "run_name=a b", "model.num_layers=8"],
    "folder": "/home/me",
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "changed_files": 2,
    "world_size": 2,
    "device": "cpu",
    "device_name": "",
    "versions": {"torch": "2.13.0", "python": "3.11.7"},
    "sources": {
        "code": {
            "prefix": "c/code",
            "documents": 8000,
            "tokens": 1_000_000,
            "lengths": [[256, 8000, 1_000_000]],
        },
        "books": {
            "prefix": "c/books",
            "documents": 600,
            "tokens": 2_000_000,
            "lengths": [[4096, 400, 1_000_000], [8192, 200, 1_000_000]],
        },
    },
    "heldout": {"prefix": "c/held", "documents": 10, "tokens": 12_000, "lengths": []},
    "mix": {stage: {"code": 3.0, "books": 1.0} for stage in ("short", "middle")}
    | {"long": {"books": 1.0}},
}
PREFLIGHT: Row = {
    "problems": [],
    "warnings": ["node1: the disk is nearly full"],
    "hosts": [{"name": "node1", "ranks": [0, 1, 4], "gpus": [], "clock_offset_seconds": None}],
    "axes": [
        {"axis": "zero", "size": 2, "groups": 1, "latency_seconds": 0.00015}
        | {"all_reduce_bytes_per_second": 1.1e9, "slowest_link": [1, 0]}
        | {"ring_bytes_per_second": {"min": 2.02e9, "median": 2.23e9}}
    ],
}


def write_run(
    folder: Path, steps: list[Row], evaluations: list[Row], pattern: Row | None = None
) -> Path:
    """A run's folder with everything a finished run leaves. pattern: other settings of the layers' kinds."""
    folder.mkdir(parents=True, exist_ok=True)
    more = {"batch_tokens": BATCH, "micro_batch_tokens": 4096, "learning_rate": RATE}
    kinds = pattern or {"layer_pattern": ["window_rope"] * 3 + ["full_nope"]}
    model = {"num_layers": 8, "hidden_size": 192, "num_heads": 6, "num_kv_heads": 2, "window": 128}
    config = {
        "run_name": folder.name,
        "model": model | {"vocab_size": 4096} | kinds,
        "schedule": {"stages": {name: stage | more for name, stage in STAGES.items()}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    for name, rows in (
        ("metrics.jsonl", steps),
        ("evaluation.jsonl", evaluations),
        ("starts.jsonl", [START]),
    ):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"parameters": 4_213_952, "world_size": 2, "device": "cpu"}
    summary |= {"started": "2025-01-31T10:02:11+00:00", "finished": "2025-01-31T10:04:40+00:00"}
    summary |= {"steps": len(steps), "complete": len(steps) == 400}
    summary["versions"] = START["versions"]
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "preflight.json").write_text(json.dumps(PREFLIGHT))
    checkpoint = folder / "checkpoints" / "step_00000400"
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / "rank_00000.safetensors").write_bytes(bytes(28_300))
    return folder


class Page(HTMLParser):
    """Every tag with its attributes, and the embedded figures by key."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = text
        self.feed(text)
        pattern = r'<script type="application/json" id="figures">(.*?)</script>'
        found = re.search(pattern, text, re.DOTALL)
        assert found is not None
        self.figures: dict[str, Row] = {row["key"]: row for row in json.loads(found[1])}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def places(self) -> set[str]:
        return {
            (row["id"] or "")[5:] for _, row in self.tags if (row.get("id") or "")[:5] == "plot-"
        }


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def names(figure: Row) -> set[str]:
    """Traces with at least one number, by name."""
    return {t["name"] for t in figure["data"] if any(v is not None for v in t["y"])}


def check_figures(page: Page) -> None:
    """Every figure is of a kind that the library draws, in colours that style sheet and page.js have."""
    style = (HERE / "style.css").read_text()
    for figure in page.figures.values():
        for trace in figure["data"]:
            assert trace["type"] in DRAWN
            if trace["type"] == "heatmap":
                assert len(trace["z"]) == len(trace["y"])
                assert {len(line) for line in trace["z"]} == {len(trace["x"])}
            else:
                assert len(trace["x"]) == len(trace["y"])
    for colour in set(re.findall(r'"@(\w+)"', json.dumps(list(page.figures.values())))):
        assert style.count(f"--{colour}:") == 2, colour  # one value a theme
        assert re.match(r"(stage|source|part)\d$|ink$|muted$|card$|rule$|grid$", colour), colour
