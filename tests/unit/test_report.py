"""The run report: self-contained, filled for every stage, and tolerant of a run killed anywhere.

The oracle is a made-up run of three stages (256, 1024, 4096 tokens) whose every number is known.
"""

import json
import math
import random
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import yaml  # type: ignore[import-untyped,unused-ignore]

from train.report.axes import log_ticks, smooth, spread
from train.report.page import duration, main, write_report
from train.report.record import length_label, read_log, read_run, short_number

Row = dict[str, Any]
STAGES: dict[str, Row] = {
    "short": {"tokens": 1_638_400, "sequence_length": 256, "rope_base": 10_000.0},
    "middle": {"tokens": 1_228_800, "sequence_length": 1024, "rope_base": 100_000.0},
    "long": {"tokens": 409_600, "sequence_length": 4096, "rope_base": 1_000_000.0},
}
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
        )
    return rows


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
    for name, rows in (("metrics.jsonl", steps), ("evaluation.jsonl", evaluations)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"parameters": 4_213_952, "world_size": 2, "device": "cpu"}
    summary |= {"started": "2025-01-31T10:02:11+00:00", "finished": "2025-01-31T10:04:40+00:00"}
    summary["versions"] = {"torch": "2.13.0", "python": "3.11.7"}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    steps = made_steps()
    return write_run(
        tmp_path_factory.mktemp("runs") / "three-stages", steps, made_evaluations(steps)
    )


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


def test_the_page_stands_alone(run_folder: Path) -> None:
    page = page_of(run_folder)
    assert (run_folder / "report.html").is_file()
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "img", "object", "embed", "base"}
        assert not {"src", "href", "srcset", "action"} & set(attributes), (tag, attributes)
    outside_plotly = re.sub(r"<script>/\*\*.*?</script>", "", page.text, flags=re.DOTALL)
    assert len(outside_plotly) < 2_000_000 < len(page.text)
    assert "://" not in outside_plotly
    assert "@import" not in outside_plotly
    assert "url(" not in outside_plotly
    policy = [row["content"] or "" for tag, row in page.tags if row.get("http-equiv")]
    assert policy[0].startswith("default-src 'none'")  # the browser itself refuses any request


def test_every_stage_is_in_every_figure(run_folder: Path) -> None:
    page = page_of(run_folder)
    assert set(page.figures) == {*PER_STAGE, "position", "seconds"} == page.places()
    for key in (*PER_STAGE, "position"):
        assert set(STAGES) <= names(page.figures[key]), key
    for bar in page.figures["seconds"]["data"]:
        assert set(bar["y"]) == set(STAGES)
    shares = [
        sum(part) for part in zip(*(b["x"] for b in page.figures["seconds"]["data"]), strict=True)
    ]
    assert shares == pytest.approx([1.0] * 3, abs=1e-5)  # six digits are written
    assert all(page.text.count(f">{stage}</span>") == 2 for stage in STAGES)  # table and legend


def test_the_figures_are_plotly_figures(run_folder: Path) -> None:
    """Plotly's own schema accepts them once the colour names are colours."""
    page = page_of(run_folder)
    for figure in page.figures.values():
        plain = json.loads(re.sub(r'"@\w+"', '"#123456"', json.dumps(figure)))
        go.Figure(data=plain["data"], layout=plain["layout"])
    colours = set(re.findall(r'"@(\w+)"', json.dumps(list(page.figures.values()))))
    for colour in colours:
        assert page.text.count(f"--{colour}:") == 2, colour  # one value a theme


def test_a_stage_has_one_colour_everywhere(run_folder: Path) -> None:
    page = page_of(run_folder)
    found: dict[str, set[str]] = {stage: set() for stage in STAGES}
    for key in (*PER_STAGE, "position"):
        for trace in page.figures[key]["data"]:
            if trace["name"] in found:
                found[trace["name"]].add(trace.get("line", trace["marker"]).get("color", ""))
                found[trace["name"]].add(trace["marker"]["color"])
    colours = {stage: {c for c in seen if c != "@card"} for stage, seen in found.items()}
    assert colours == {"short": {"@stage0"}, "middle": {"@stage1"}, "long": {"@stage2"}}


def test_every_kind_of_layer_is_told_with_its_window(tmp_path: Path) -> None:
    pattern = {
        "layer_pattern": ["near", "window_rope", "full_nope", "near"],
        "kinds": {"near": {"like": "window_rope", "window": 64}},
    }
    folder = write_run(tmp_path, made_steps(), made_evaluations(made_steps()), pattern)
    write_report(folder)
    page = page_of(folder)
    assert "4 near (windowed with RoPE) and 2 windowed with RoPE and 2 full attention" in page.text
    assert "keys that a window sees: 64 in near layers, 128 in window_rope layers" in page.text
    lines = page.figures["position"]["layout"]["shapes"]
    assert [line["x0"] for line in lines] == [64, 128]


def test_the_numbers_are_the_runs(run_folder: Path) -> None:
    steps = made_steps()
    newest = made_evaluations(steps)[-1]
    page = page_of(run_folder)
    assert f"<b>{newest['loss']:.3f}</b>" in page.text
    assert f"<b>\N{MINUS SIGN}{BIGRAM - newest['loss']:.3f}</b>" in page.text
    assert f"<b>\N{MINUS SIGN}{0.094:.3f}</b>" in page.text  # last quarter less first quarter
    assert "4.21M (4,213,952)" in page.text
    assert "6 windowed with RoPE and 2 full attention without positions" in page.text
    yardsticks = {t["name"]: t["y"] for t in page.figures["loss"]["data"] if "gram" in t["name"]}
    assert set(yardsticks["unigram"]) == {UNIGRAM}
    assert set(yardsticks["bigram"]) == {BIGRAM}
    bands = [s for s in page.figures["loss"]["layout"]["shapes"] if s["type"] == "rect"]
    assert [(band["x0"], band["x1"]) for band in bands] == [
        (0, 1_638_400),
        (1_638_400, 2_867_200),
        (2_867_200, 3_276_800),
    ]
    raw, bold = (t for t in page.figures["loss"]["data"][:2])
    assert raw["y"][36] is None  # the skipped step's NaN is a gap, not a number
    assert raw["y"][37] == pytest.approx(steps[37]["loss"], rel=1e-5)
    assert bold["customdata"][37] == [38, f"{steps[37]['loss']:.4f}"]
    skipped = [t for t in page.figures["gradient_norm"]["data"] if "skipped" in t["name"]]
    assert [trace["x"] for trace in skipped] == [[37 * BATCH]]
    assert "1 of 400 steps skipped" in page.text


def test_a_spike_and_a_rollback_are_shown(tmp_path: Path) -> None:
    steps = made_steps()[:50]
    for row in steps:
        row["spikes"] = {"limit": 7.0 if row["step"] > 30 else None, "in_a_row": 0, "rollbacks": 1}
    steps[39] |= {"loss": 70.0}
    page = page_of(write_run(tmp_path / "spiked", steps, []))
    (spike,) = [trace for trace in page.figures["loss"]["data"] if "spike" in trace["name"]]
    assert spike["x"] == [40 * BATCH]
    assert spike["customdata"] == [[40, "70.0000"]]
    assert spike["y"][0] <= page.figures["loss"]["layout"]["yaxis"]["range"][1]
    assert "went back to a checkpoint once" in page.text


@pytest.mark.parametrize(
    "tail", [b'{"step": 401, "sta', b'{"step": 401, "stage": "l\xc3', b"\0\0\n"]
)
def test_a_torn_last_line_is_left_out(tmp_path: Path, tail: bytes) -> None:
    folder = write_run(tmp_path / "torn", made_steps()[:50], [])
    with (folder / "metrics.jsonl").open("ab") as log:
        log.write(tail)
    assert len(read_run(folder).steps) == 50
    assert "last line of metrics.jsonl was cut off" in page_of(folder).text


def test_a_broken_line_before_the_last_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "broken", made_steps()[:9], [])
    log = folder / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([*lines[:3], "\n", lines[3][:20] + "\n", *lines[4:]]))
    with pytest.raises(ValueError, match=r"metrics\.jsonl line 5: not a JSON object"):
        write_report(folder)
    log.write_text("".join([*lines[:3], '{"step": 4, "stage": "short"}\n', *lines[4:]]))
    with pytest.raises(ValueError, match=r"metrics\.jsonl line 4: lacks tokens_seen"):
        write_report(folder)


@pytest.mark.parametrize("count", [0, 1, 2, 130, 201])
def test_a_run_killed_early_has_its_figures(tmp_path: Path, count: int) -> None:
    steps = made_steps()[:count]
    page = page_of(write_run(tmp_path / "killed", steps, []))
    reached = {row["stage"] for row in steps}
    assert set(page.figures) == ({*PER_STAGE, "seconds"} if steps else set())
    assert all(reached <= names(page.figures[key]) for key in PER_STAGE if steps)
    assert ("No step has been completed" in page.text) == (count == 0)
    assert page.text.count("not reached") == 3 - len(reached)
    if steps:
        assert f"{count * BATCH / 3_276_800:.1%} of its planned 3.28M tokens" in page.text


def test_only_the_required_keys(tmp_path: Path) -> None:
    """No configuration, no evaluation, and lines that hold nothing but where they stand."""
    folder = tmp_path / "bare"
    folder.mkdir()
    rows = [{"step": step, "stage": "only", "tokens_seen": 10 * step} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    page = page_of(folder)
    assert page.figures == {}
    assert "<h1>bare</h1>" in page.text
    (folder / "evaluation.jsonl").write_text(json.dumps(rows[1] | {"loss": 3.25}))
    page = page_of(folder)
    assert "Held-out loss ends at 3.250" in page.text
    assert names(page.figures["loss"]) == {"only"}


def test_evaluations_without_steps(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "judged", [], made_evaluations(made_steps())))
    assert set(page.figures) == {"loss", "position"}
    assert names(page.figures["position"]) == {*STAGES, "bigram"}


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    steps = [row | {"stage": "</script><b>x"} for row in made_steps()[:30]]
    page = page_of(write_run(tmp_path / "a<i>&b", steps, []))
    assert "<b>x" not in page.text
    assert "<i>" not in page.text.split("<script>")[0]
    assert all("&lt;/script&gt;&lt;b&gt;x" in names(page.figures[key]) for key in PER_STAGE)


def test_a_long_run_is_thinned_but_keeps_its_last_step(tmp_path: Path) -> None:
    rows = [row | {"step": n, "tokens_seen": n} for n, row in enumerate(made_steps() * 25, 1)]
    rows = [row | {"stage": "short"} for row in rows]
    page = page_of(write_run(tmp_path / "endless", rows, []))
    for key in PER_STAGE:
        assert all(len(trace["x"]) <= 4000 for trace in page.figures[key]["data"])
        assert page.figures[key]["data"][0]["x"][-1] == 10_000


def test_a_wrong_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.yaml"):
        write_report(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"config\.yaml: not readable as YAML"):
        write_report(tmp_path)


def test_command_line(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["report", str(run_folder)])
    main()
    assert capsys.readouterr().out == f"{run_folder / 'report.html'}\n"
    monkeypatch.setattr("sys.argv", ["report", str(run_folder / "nowhere")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "give the folder of a run" in capsys.readouterr().err


def test_numbers_as_words(tmp_path: Path) -> None:
    assert [short_number(n) for n in (0, 950, 12_400, 999_999, 1_234_567, 3e9)] == [
        "0",
        "950",
        "12.4k",
        "1M",
        "1.23M",
        "3B",
    ]
    assert [length_label(n) for n in (256, 4096, 16_384, 131_072, 10_001)] == [
        "256",
        "4096",
        "16k",
        "128k",
        "10001",
    ]
    assert [duration(s) for s in (0.95, 42, 725, 11_220)] == [
        "950 ms",
        "42 s",
        "12 min 05 s",
        "3 h 07 min",
    ]
    assert read_log(tmp_path / "absent.jsonl") == ([], False)


def test_smoothing_leaves_straight_lines_and_gaps_alone() -> None:
    line = [0.5 * index for index in range(11)]
    assert smooth(list(line), 5) == pytest.approx(line)  # no lag, also at the ends
    assert smooth([1.0, None, 3.0], 3) == [1.0, 2.0, 3.0]
    assert smooth([None], 9) == [None]


def test_labels_and_ticks_keep_their_distance() -> None:
    moved = spread([10.0, 0.0, 3.0], 5.0)
    assert moved == [10.0, 0.0, 5.0]
    assert spread([1.0, 1.0, 1.0], 5.0) == [1.0, 6.0, 11.0]
    ticks = log_ticks([1e4, 1.01e4, 1e6], short_number)
    assert ticks["ticktext"] == ["10k", "1M"]
