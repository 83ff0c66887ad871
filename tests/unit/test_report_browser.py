"""The page in a browser: the library is inflated, every figure is valid and drawn, heat maps too."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.made_run import made_evaluations, made_prompts, made_steps, write_run
from train.advise.advice import advise
from train.advise.inputs import read_subject
from train.advise.page import render
from train.report.axes import Figure, base_layout
from train.report.comparison import write_comparison
from train.report.page import document, grid, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine"),
]
# Added at the end of a page: what the library itself says of every figure, and what the page has drawn.
JUDGE = """<script>
const wait = setInterval(() => {
  const places = [...document.querySelectorAll(".plot")];
  const trouble = document.getElementById("trouble").textContent;
  const drawn = window.Plotly && places.every(place => place.querySelector(".main-svg .xy"));
  if (!trouble && !drawn) return;
  clearInterval(wait);
  const wrong = trouble ? [] : places.flatMap(place =>
    (Plotly.validate(place.data, place.layout) || [])
      .filter(problem => problem.code !== "unused")  // such as the markers of a line without any
      .map(problem => place.id + ": " + problem.code + " " + problem.msg));
  const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  const images = document.querySelectorAll(".heatmaplayer image").length;
  const answer = document.createElement("pre");
  answer.id = "answer";
  answer.textContent = JSON.stringify({places: places.length, wrong, trouble, wide, images});
  document.body.append(answer);
}, 50);
</script></body>"""


def answer(page: Path, *options: str) -> dict[str, object]:
    """What a browser makes of a page. options: further ones of Chromium's command line."""
    page.write_text(page.read_text().replace("</body>", JUDGE))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", *options]
    command += [f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=20000"]
    found = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    said = re.search(r'<pre id="answer">(.*?)</pre>', found.stdout)
    assert said is not None, found.stderr[-2000:]
    content: dict[str, object] = json.loads(html.unescape(said[1]))
    return content


@pytest.mark.parametrize("options", [(), ("--window-size=500,900",)])
def test_every_figure_is_valid_and_drawn(tmp_path: Path, options: tuple[str, ...]) -> None:
    steps = made_steps()
    page = write_report(write_run(tmp_path / "run", steps, made_evaluations(steps)))
    found = answer(page, *options)
    assert found == {"places": 10, "wrong": [], "trouble": "", "wide": False, "images": 0}


@pytest.mark.parametrize("options", [(), ("--window-size=500,900",)])
@pytest.mark.parametrize("number", [1, 13])
def test_every_figure_of_long_context_tasks_is_valid_and_drawn(
    tmp_path: Path, number: int, options: tuple[str, ...]
) -> None:
    steps = made_steps()
    evaluations = made_evaluations(steps)
    rows = evaluations + made_prompts(evaluations, [f"task_{n}" for n in range(number)])
    page = write_report(write_run(tmp_path / "run", steps, rows))
    places, maps = 10 + 2 * number + (number > 1), 6 * number + (number > 1)
    assert answer(page, *options) == {
        **{"places": places, "wrong": [], "trouble": "", "wide": False, "images": maps}
    }


@pytest.mark.parametrize("options", [(), ("--window-size=500,900",)])
def test_every_figure_of_a_comparison_is_valid_and_drawn(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    steps = made_steps()
    evaluations = made_evaluations(steps)
    rows = evaluations + made_prompts(evaluations, ["p", "q"])
    folders = [write_run(tmp_path / name, steps, rows) for name in ("a", "b", "c")]
    found = answer(write_comparison(folders), *options)
    assert found == {"places": 10, "wrong": [], "trouble": "", "wide": False, "images": 0}


@pytest.mark.parametrize("options", [(), ("--window-size=500,900",)])
def test_every_figure_of_an_advice_is_valid_and_drawn(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    words = [
        "experiment=quickstart",
        "model.layer_pattern=[window_rope,full_nope,full_rope]",
        "model.num_layers=3",
    ]
    page = tmp_path / "advice.html"
    page.write_text(render(advise(read_subject(words), (1024,))))
    found = answer(page, *options)
    assert found == {"places": 6, "wrong": [], "trouble": "", "wide": False, "images": 0}


def test_a_heat_map_is_drawn(tmp_path: Path) -> None:
    data = [{"type": "heatmap", "x": [1, 2], "y": [1, 2], "z": [[0.1, 0.2], [0.3, None]]}]
    figure = Figure("heat", "Depth and length", "share found", data, base_layout({}, {}))
    page = tmp_path / "heat.html"
    page.write_text(document("heat", "", "", {"Heat": grid([figure])}, [figure]))
    found = answer(page)
    assert found == {"places": 1, "wrong": [], "trouble": "", "wide": False, "images": 1}


def test_a_browser_that_cannot_inflate_says_so(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run", made_steps()[:9], []))
    page.write_text(
        page.read_text().replace(
            "<head>", "<head><script>delete window.DecompressionStream</script>"
        )
    )
    found = answer(page)
    assert "this browser is too old" in str(found["trouble"])
    assert "Tables and numbers are complete." in str(found["trouble"])
