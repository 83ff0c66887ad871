"""Figures of the report: every stage in each, one colour a stage, numbers of the run, names that are only text."""

from pathlib import Path

import pytest

from tests.unit.made_run import (
    BATCH,
    BIGRAM,
    PER_STAGE,
    STAGES,
    UNIGRAM,
    made_evaluations,
    made_steps,
    names,
    page_of,
    write_run,
)
from train.report.axes import MAX_POINTS, log_ticks, smooth, spread
from train.report.units import short_number


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    steps = made_steps()
    folder = tmp_path_factory.mktemp("runs") / "three-stages"
    return write_run(folder, steps, made_evaluations(steps))


def test_every_stage_is_in_every_figure(run_folder: Path) -> None:
    page = page_of(run_folder)
    assert set(page.figures) == {*PER_STAGE, "position", "seconds", "lengths"} == page.places()
    for key in (*PER_STAGE, "position"):
        assert set(STAGES) <= names(page.figures[key]), key
    for bar in page.figures["seconds"]["data"]:
        assert set(bar["y"]) == set(STAGES)
    shares = [
        sum(part) for part in zip(*(b["x"] for b in page.figures["seconds"]["data"]), strict=True)
    ]
    assert shares == pytest.approx([1.0] * 3, abs=1e-5)  # six digits are written


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


def test_every_kind_of_layer_is_told_with_its_reach(tmp_path: Path) -> None:
    pattern = {
        "layer_pattern": ["near", "window_rope", "full_nope", "part"],
        "kinds": {
            "near": {"like": "window_rope", "window": 64},
            "part": {"like": "chunk_rope", "chunk": 96, "position_scale": {"scale": "swan"}},
        },
    }
    folder = write_run(tmp_path, made_steps(), made_evaluations(made_steps()), pattern)
    page = page_of(folder)
    assert "2 near (windowed with RoPE) and 2 windowed with RoPE and 2 full attention" in page.text
    assert "2 part (chunked attention with RoPE)" in page.text
    assert "attention chunks of 96 tokens" in page.text
    assert "queries scaled by position: swan in part layers" in page.text
    assert "keys that a window sees: 64 in near layers, 128 in window_rope layers" in page.text
    lines = page.figures["position"]["layout"]["shapes"]
    assert [line["x0"] for line in lines] == [64, 128, 96]


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


def test_evaluations_without_steps(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "judged", [], made_evaluations(made_steps())))
    assert set(page.figures) == {"loss", "position", "lengths"}
    assert names(page.figures["position"]) == {*STAGES, "bigram"}


def test_a_long_run_is_thinned_but_keeps_its_last_step(tmp_path: Path) -> None:
    rows = [row | {"step": n, "tokens_seen": n} for n, row in enumerate(made_steps() * 25, 1)]
    rows = [row | {"stage": "short"} for row in rows]
    page = page_of(write_run(tmp_path / "endless", rows, []))
    for key in PER_STAGE:
        assert all(len(trace["x"]) <= MAX_POINTS for trace in page.figures[key]["data"])
        assert page.figures[key]["data"][0]["x"][-1] == 10_000
    assert len(page.text.encode()) < 1_500_000


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


def test_the_ticks_of_a_ramp_are_its_ends_and_round_numbers(tmp_path: Path) -> None:
    steps = made_steps()
    for index, row in enumerate(steps):
        row["rope_base"] = 10_000 * 5 ** (index / (len(steps) - 1))
    figures = page_of(write_run(tmp_path / "ramp", steps, [])).figures
    assert figures["rope_base"]["layout"]["yaxis"]["ticktext"] == ["10,000", "20,000", "50,000"]


def test_sources_have_lines_of_their_own(tmp_path: Path) -> None:
    steps = made_steps()[:40]
    for row in steps:
        row["sources"] = {"code": {"tokens": 9, "loss": 3.0}, "books": {"tokens": 9, "loss": None}}
    steps[-1]["sources"]["books"]["loss"] = 4.0
    page = page_of(write_run(tmp_path / "mixed", steps, []))
    assert [(trace["name"], trace["y"][-1]) for trace in page.figures["sources"]["data"]] == [
        ("code", 3.0),
        ("books", 4.0),
    ]
    assert "code ends lowest (3.000), books highest (4.000)" in page.text
    alone = [row | {"sources": {"code": {"tokens": 9, "loss": 3.0}}} for row in steps]
    page = page_of(write_run(tmp_path / "alone", alone, []))
    assert "sources" not in page.figures  # the loss says it already
