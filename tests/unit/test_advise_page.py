"""The page and the tables of `ropewalk advise`: complete, alone, and with the numbers of the golden functions."""

import html
import json
import math
import re
from pathlib import Path

import numpy
import pytest

from model.position.advice.adjusted_base import decay
from model.position.advice.base_bound import reach
from model.position.settings import inverse_frequencies
from tests.unit.made_run import Page, check_figures
from tests.unit.test_advise import RELEASED
from train.advise.advice import Advice, advise
from train.advise.command import main
from train.advise.cost import cost_of
from train.advise.inputs import read_subject
from train.advise.page import figures_of, render
from train.advise.questions import questions

# A hybrid whose full layers rotate too, with a base that grows and Resonance.
RUN = [
    "experiment=quickstart",
    "model.layer_pattern=[window_rope,window_rope,full_nope,full_rope]",
    "schedule.stages.long.rope_base=40000",
    "model.kinds.window_rope.rope.resonance=true",
]


@pytest.fixture(scope="module")
def found() -> Advice:
    return advise(read_subject(RUN), (256, 4096))


@pytest.fixture(scope="module")
def page(found: Advice) -> Page:
    return Page(render(found))


def test_every_figure_has_the_numbers_of_the_golden_functions(found: Advice) -> None:
    figures = {figure.key: figure for some in figures_of(found).values() for figure in some}
    assert set(figures) == {"reach", "waves", "trained", "decay", "cache", "operations"}
    line = next(trace for trace in figures["reach"].data if trace["name"].startswith("plain"))
    for base, tokens in list(zip(line["x"], line["y"], strict=True))[::40]:
        golden = reach(inverse_frequencies(base, 32), 8 * 4096)
        assert tokens == pytest.approx(max(1, golden), rel=1e-3)  # bases of six digits
    points = {trace["name"]: trace for trace in figures["reach"].data if len(trace["x"]) == 1}
    assert points["full_rope, long: too small"]["x"] == [40000.0]
    assert points["full_rope, long: too small"]["y"] == [4096]
    waves = figures["waves"].data[1]
    expected = 2 * math.pi / inverse_frequencies(1e4, 32)
    assert waves["name"] == "full_rope, short"
    numpy.testing.assert_allclose(waves["y"], expected, rtol=1e-5)
    assert waves["marker"]["symbol"] == [
        "circle" if wave <= 256 else "circle-open" for wave in expected
    ]
    mean = next(trace for trace in figures["decay"].data[2:] if "line" in trace["mode"][:4])
    assert mean["y"][0] == pytest.approx(
        float(decay(inverse_frequencies(1e4, 32), numpy.ones(1))[0]), rel=1e-5
    )
    cache = {trace["name"]: trace for trace in figures["cache"].data}
    cost = cost_of(found.subject.moments[-1], 4096)
    assert cache["all"]["y"][-1] == pytest.approx(cost.cache_bytes, rel=1e-5)
    assert cache["if all layers were full"]["y"][-1] == pytest.approx(
        2 * 4 * 4096 * 2 * 32 * 2, rel=1e-5
    )


def test_the_page_stands_alone_and_has_every_table_without_a_script(
    page: Page, found: Advice
) -> None:
    for word in ("://", "@import", "url("):
        assert word not in page.text
    assert page.places() == set(page.figures)
    assert len(page.text.encode()) < 1_500_000
    plain = re.sub(r"<script.*?</script>", "", page.text, flags=re.DOTALL)
    for question in questions(found):
        assert question.asks in plain
        for table in (table for table in question.tables if table.rows):
            assert table.title in plain
            for cell in (cell for row in table.rows for cell in row if cell):
                assert f">{html.escape(cell)}</t" in plain, cell
    assert "This is advice" in plain
    assert "Losses are" not in plain


def test_figures_are_of_kinds_that_the_library_draws_in_colours_of_the_style_sheet(
    page: Page,
) -> None:
    check_figures(page)


def test_a_model_without_rotation_is_answered() -> None:
    found = advise(read_subject(["experiment=quickstart", "recipe=nope"]), (1024,))
    page = Page(render(found))
    assert "No layer rotates" in page.text
    assert set(page.figures) == {"cache", "operations", "trained"}


def test_the_command_prints_tables_or_data_and_writes_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RELEASED["command_r7b"]))
    page = tmp_path / "advice.html"
    assert main([str(tmp_path), "--lengths", "1k,128k", "--page", str(page)]) == 0
    said = capsys.readouterr()
    assert "window_rope" in said.out
    assert "4.7 GB" in said.out
    assert max(map(len, said.out.splitlines())) <= 120
    assert page.read_text().startswith("<!doctype html>")
    assert main(["experiment=quickstart", "--lengths", "1k", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lengths"] == [1024]


@pytest.mark.parametrize("words", [["--lengths", "0"], ["--trained-base", "one"], ["--page", "."]])
def test_an_option_that_is_wrong_is_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["experiment=quickstart", "--lengths", "256", *words])
    except SystemExit as stop:  # as argparse ends a process
        assert isinstance(stop.code, int)
        status = stop.code
    assert status == 2
    assert capsys.readouterr().err.splitlines()[-1].count(words[0]) == 1
