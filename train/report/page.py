"""Writes report.html: one page from the files of a run.

The page embeds its styles, its data and the plotting library: it opens from a disk, makes no network request and
follows the reader's light or dark theme. Its tables and numbers need no script.
"""

import base64
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from data.files import write_durably
from train.report.accuracy_figure import accuracy_figure
from train.report.axes import Figure
from train.report.data_section import data_section, lengths_figure
from train.report.differences import configuration_section
from train.report.layer_figures import layer_figures
from train.report.loss_figures import loss_figure, position_figure, source_figure
from train.report.model_words import lead
from train.report.overview import head_facts, notes, standing, tiles, written
from train.report.position_fit import fit_section
from train.report.prompt_section import prompt_figures, prompt_section
from train.report.record import RunRecord, read_run
from train.report.setup_section import checkpoint_section, command_section, machine_section
from train.report.stage_table import chip, stage_table
from train.report.step_figures import (
    gradient_norm_figure,
    learning_rate_figure,
    padding_figure,
    schedule_figure,
    throughput_figure,
    time_figure,
    utilisation_figure,
)
from train.report.tables import facts, paragraph
from train.report.task_results import other_results
from train.report.window_figures import window_figures

HERE = Path(__file__).parent
# See plotly_js/SOURCE.md: the version, and the SHA-256 of the uncompressed file.
PLOTLY_JS = HERE / "plotly_js" / "plotly-cartesian.min.js.gz"
PLOTLY_JS_VERSION = "4.1.1"
PLOTLY_JS_SHA256 = "79542150855a52c567260e3137095dbe2b744e6d702a5cabe67da246942fba7a"


def write_report(run_folder: Path, *, running: bool = False) -> Path:
    """Writes report.html into a run's folder and returns its path; leaves out parts without data.

    running: the run itself writes the page and is still training.

    Raises:
        ValueError: the folder is not a run's, or config.yaml or a log is broken (a log's last line may be cut off).
        OSError: the page cannot be written, or config.yaml or a log cannot be read.
    """
    path = run_folder / "report.html"
    write_durably(path, render(read_run(run_folder), running=running))
    return path


def render(record: RunRecord, *, running: bool = False, now: datetime | None = None) -> str:
    """Returns the whole page as HTML."""
    sections, figures = sections_of(record)
    head = [
        paragraph(f"{standing(record, running=running)}. {written(record, now)}.", "standing"),
        paragraph(lead(record), "lead"),
        *(paragraph(note, "note") for note in notes(record)),
        facts(head_facts(record)),
        tiles(record),
    ]
    legend = "".join(chip(stage, index) for index, stage in enumerate(record.stage_names))
    return document(record.name, "".join(head), legend, sections, figures)


def sections_of(record: RunRecord) -> tuple[dict[str, str], list[Figure]]:
    """Returns the sections of a run by heading, in reading order, and all their figures."""
    loss = drawn(
        loss_figure(record),
        position_figure(record),
        accuracy_figure(record),
        source_figure(record),
    )
    tasks = drawn(*prompt_figures(record))
    course = drawn(
        schedule_figure(record, "sequence_length", "Sequence length"),
        schedule_figure(record, "rope_base", "RoPE base"),
        *window_figures(record),
        learning_rate_figure(record),
        gradient_norm_figure(record),
    )
    layers = drawn(*layer_figures(record))
    data = drawn(lengths_figure(record), padding_figure(record))
    speed = drawn(throughput_figure(record), utilisation_figure(record), time_figure(record))
    sections = {
        "Loss": grid(loss) + fit_section(record),
        "Long context": prompt_section(record) + grid(tasks),
        "Other evaluations": other_results(record),
        "Stages": "" if record.evaluated else stage_table(record) + grid(course),
        "Layers": grid(layers),
        "Data": data_section(record) + grid(data),
        "Speed": grid(speed),
        "Command": command_section(record),
        "Configuration": configuration_section(record),
        "Machine": machine_section(record),
        "Checkpoints": checkpoint_section(record),
    }
    figures = [*loss, *tasks, *course, *layers, *data, *speed]
    return sections, [one for one in figures if one not in course or not record.evaluated]


def drawn(*figures: Figure) -> list[Figure]:
    """Returns the figures that have data; widens one if the last row would be half empty."""
    kept = [figure for figure in figures if figure.data]
    if sum(not figure.wide for figure in kept) % 2:
        last = max(index for index, figure in enumerate(kept) if not figure.wide)
        kept[last] = replace(kept[last], wide=True)
    return kept


def grid(figures: Sequence[Figure]) -> str:
    """Returns the figures' cards, two in a row."""
    return f"<div class=grid>{''.join(map(_card, figures))}</div>" if figures else ""


def _card(figure: Figure) -> str:
    kind = "card wide" if figure.wide else "card"
    title, unit = html.escape(figure.title), html.escape(figure.unit)
    return (
        f"<section class='{kind}'><h3>{title}</h3><p class=unit>{unit}</p>"
        f'<div class=plot id="plot-{figure.key}" style="height:{figure.height}px" '
        f'role=img aria-label="{title}"></div></section>'
    )


@dataclass(frozen=True)
class PageWords:
    """What a page is called above its title and in the browser's tab, and its last paragraph, which is HTML."""

    kind: str
    tab: str
    footer: str


REPORT = PageWords(
    "Ropewalk run report",
    "run report",
    "Losses are natural logarithms per token, means over tokens that have a target. k, M, B and T are 10<sup>3</sup>, "
    "10<sup>6</sup>, 10<sup>9</sup> and 10<sup>12</sup>; kB, MB and GB are 10<sup>3</sup>, 10<sup>6</sup> and "
    "10<sup>9</sup> bytes. Times are UTC.",
)


def document(
    title: str,
    head: str,
    legend: str,
    sections: dict[str, str],
    figures: Sequence[Figure],
    words: PageWords = REPORT,
) -> str:
    """Returns the page. head, legend, sections: already HTML. legend: the chips of the sticky navigation strip."""
    content = [{"key": f.key, "data": f.data, "layout": f.layout} for f in figures]
    drawn = json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    filled = {name: text for name, text in sections.items() if text}
    links = "".join(f'<a href="#{_anchor(name)}">{name}</a>' for name in filled)
    body = "".join(f'<h2 id="{_anchor(name)}">{name}</h2>{text}' for name, text in filled.items())
    parts = {
        "title": html.escape(title),
        "kind": words.kind,
        "tab": words.tab,
        "footer": words.footer,
        "head": head,
        "legend": legend,
        "links": links,
        "body": body,
        "figures": drawn,
        "style": _text("style.css"),
        "script": _text("page.js"),
        "plotly": base64.b64encode(PLOTLY_JS.read_bytes()).decode("ascii") if figures else "",
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _text("template.html"))


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
