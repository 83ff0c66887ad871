"""Whatever lies in a run's folder: a page whose text is only text, or one line that names what is broken."""

import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.unit.made_run import (
    PREFLIGHT,
    START,
    made_evaluations,
    made_prompts,
    made_steps,
    write_run,
)
from train.report.comparison import write_comparison
from train.report.page import write_report

MARK = "</script><script>alert(1)</script><img src=x onerror=alert(1)>'\"&{{title}}"
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1e308, float("nan"), float("inf"), 10**400, "", "0", MARK),
    *([], [None], [[1]], {}, {"loss": 1}, {"a": {"b": [MARK]}}),
)
FILES = (
    "config.yaml",
    "metrics.jsonl",
    "evaluation.jsonl",
    "starts.jsonl",
    "summary.json",
    "preflight.json",
)


class Elements(HTMLParser):
    """Counts what could run or load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts, self.images, self.handlers = 0, 0, 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.images += tag == "img"
        self.handlers += sum(name.startswith("on") for name, _ in attrs)


def changed(value: Any, rng: random.Random) -> Any:
    """A copy in which one value, at any depth, is odd, absent or under another name."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        rest = {name: inner for name, inner in value.items() if name != key}
        how = rng.random()
        if how < 0.15:
            return rest
        return rest | ({MARK: value[key]} if how < 0.25 else {key: changed(value[key], rng)})
    if isinstance(value, list) and value and rng.random() < 0.6:
        at = rng.randrange(len(value))
        return [*value[:at], changed(value[at], rng), *value[at + 1 :]]
    return rng.choice(ODD)


def torn(raw: bytes, rng: random.Random) -> bytes:
    """A copy that is cut off, or has other bytes somewhere."""
    at = rng.randrange(len(raw))
    return (
        raw[:at] if rng.random() < 0.5 else raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :]
    )


def spoil(folder: Path, rng: random.Random) -> None:
    """Change one to three of the run's files."""
    for name in rng.sample(FILES, rng.randint(1, 3)):
        path = folder / name
        if rng.random() < 0.25:
            path.write_bytes(torn(path.read_bytes(), rng))
        elif name.endswith(".jsonl"):
            lines = path.read_text().splitlines()
            at = rng.randrange(len(lines))
            lines[at] = json.dumps(changed(json.loads(lines[at]), rng))
            path.write_text("\n".join(lines) + "\n")
        elif name == "config.yaml":
            config = {
                "run_name": MARK,
                "model": {"num_layers": 2, "hidden_size": 8, "layer_pattern": ["full_nope"]},
            }
            config["schedule"] = {"stages": {"short": {"tokens": 9, "sequence_length": 3}}}
            path.write_text(json.dumps(changed(config, rng), default=str))
        else:
            content = PREFLIGHT if name == "preflight.json" else json.loads(path.read_text())
            path.write_text(json.dumps(changed(content, rng)))


def check(folder: Path) -> None:
    """A page, or one line."""
    try:
        page = write_report(folder).read_text(encoding="utf-8")
    except ValueError as error:
        assert "\n" not in str(error)
        assert re.match(r"\S+(config\.yaml|\.jsonl line \d+|run_folder=\S+): ", str(error)), error
        return
    found = Elements(page)
    assert (found.scripts, found.images, found.handlers) == (3, 0, 0)
    figures = re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)
    assert figures is not None
    json.loads(figures[1], parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def spoiled_runs(tmp_path: Path, seeds: range) -> None:
    rng = random.Random(7)
    steps = made_steps()
    steps, evaluations = steps[195:205] + steps[-3:], made_evaluations(steps)[:4]
    evaluations += made_prompts(evaluations[1:3], ["passkey", MARK])
    for seed in seeds:
        rng.seed(seed)
        folder = write_run(tmp_path / "run", steps, evaluations)
        (folder / "starts.jsonl").write_text(f"{json.dumps(START)}\n" * 2)
        spoil(folder, rng)
        try:
            check(folder)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


def test_spoiled_files_give_a_page_or_one_line(tmp_path: Path) -> None:
    spoiled_runs(tmp_path, range(60))


@pytest.mark.slow
def test_many_spoiled_files_give_a_page_or_one_line(tmp_path: Path) -> None:
    spoiled_runs(tmp_path, range(60, 1000))


def test_names_and_values_are_only_text(tmp_path: Path) -> None:
    steps = [row | {"stage": MARK} for row in made_steps()[:12]]
    folder = write_run(tmp_path / "named", steps, [])
    content = {"run_name": MARK, "data": {"sources": {MARK: {"prefix": MARK}}}, MARK: MARK}
    (folder / "config.yaml").write_text(json.dumps(content))
    start = START | {
        "command": ["python", MARK],
        "commit": MARK,
        "folder": MARK,
        "device_name": MARK,
    }
    start |= {"sources": {MARK: START["sources"]["code"], "b": START["sources"]["books"]}}
    start |= {"mix": {MARK: {MARK: 1.0, "b": 0.5}, "c": {"b": 1.0}}, "versions": {MARK: MARK}}
    (folder / "starts.jsonl").write_text(f"{json.dumps(start)}\n" * 2)
    preflight = PREFLIGHT | {"warnings": [MARK], "hosts": [{"name": MARK, "ranks": [0]}]}
    (folder / "preflight.json").write_text(json.dumps(preflight))
    (folder / "error.txt").write_text(MARK)
    (folder / "checkpoints" / f"step_{MARK.replace('/', '')}").mkdir()
    check(folder)
    other = write_run(tmp_path / "other", made_steps()[:9], [])
    page = write_comparison([folder, other]).read_text(encoding="utf-8")
    found = Elements(page)
    assert (found.scripts, found.images, found.handlers) == (3, 0, 0)
