"""`python -m train.report outputs/RUN_NAME`: the run's own files as one page, report.html.

The page carries its styles, its data and plotly's script inside; it opens from a disk, asks the
network for nothing and follows the reader's light or dark theme.
"""

import argparse
import html
import json
import math
import re
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from plotly.offline import get_plotlyjs

from model.layer_pattern import LAYER_KINDS
from train.report.figures import Figure, all_figures
from train.report.record import (
    NUM_COLOURS,
    Row,
    RunRecord,
    finite_value,
    known,
    length_label,
    of_spikes,
    read_run,
    short_number,
    weighted_mean,
)

TEMPLATE = Path(__file__).with_name("template.html")


def write_report(run_folder: Path) -> Path:
    """Write report.html into a run's folder and return its path; what the run lacks is left out.

    Raises ValueError where the folder is not a run's or a file is broken anywhere but in a log's
    last line.
    """
    record = read_run(run_folder)
    path = run_folder / "report.html"
    path.write_text(render(record), encoding="utf-8")
    return path


def render(record: RunRecord) -> str:
    """The whole page."""
    figures = all_figures(record)
    content = [{"key": f.key, "data": f.data, "layout": f.layout} for f in figures]
    parts = {
        "title": html.escape(record.name),
        "lead": html.escape(lead(record)),
        "notes": "".join(f"<p class=note>{html.escape(note)}</p>" for note in notes(record)),
        "facts": "".join(
            f"<div><dt>{k}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts(record)
        ),
        "headline": "".join(headline(record)),
        "legend": "".join(chip(record, stage) for stage in record.stage_names),
        "stages": stages_table(record),
        "cards": "".join(card(figure) for figure in figures),
        "figures": json.dumps(content, allow_nan=False, separators=(",", ":")).replace(
            "<", "\\u003c"
        ),
        "plotly": get_plotlyjs().replace("</script", "<\\/script"),
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def lead(record: RunRecord) -> str:
    """What the model is, in a sentence; empty where the configuration does not tell."""
    model = record.config.get("model")
    if not isinstance(model, dict):
        return ""
    layers, width = (finite_value(model, key) for key in ("num_layers", "hidden_size"))
    if layers is None or width is None:
        return ""
    words = f"A language model of {layers:.0f} layers, {width:.0f} wide"
    heads, groups = finite_value(model, "num_heads"), finite_value(model, "num_kv_heads")
    if heads:
        words += f", {heads:.0f} attention heads"
        words += f" on {groups:.0f} key/value heads" if groups and groups != heads else ""
    pattern = model.get("layer_pattern")
    if isinstance(pattern, list) and pattern:
        count = Counter(str(pattern[i % len(pattern)]) for i in range(int(layers)))
        kinds = [f"{number} {kind_in_words(record, kind)}" for kind, number in count.items()]
        words += f": {' and '.join(kinds)}"
        windows = record.windows
        if len(set(windows.values())) == 1:
            words += f"; a window sees {next(iter(windows.values())):,.0f} keys"
        elif windows:
            each = [f"{window:,.0f} in {kind} layers" for kind, window in windows.items()]
            words += f"; keys that a window sees: {', '.join(each)}"
    vocabulary = finite_value(model, "vocab_size")
    return words + (f". Vocabulary of {vocabulary:,.0f}." if vocabulary else ".")


def kind_in_words(record: RunRecord, name: str) -> str:
    """What layers of this kind do; of a further kind its name too."""
    kind = record.layer_kinds.get(name)
    if kind is None:
        return name
    attention = "windowed" if kind.windowed else "full attention"
    words = f"{attention} {'with RoPE' if kind.rotary else 'without positions'}"
    return words if name in LAYER_KINDS else f"{name} ({words})"


def planned_tokens(record: RunRecord) -> float:
    return sum(known(record.planned_stages.values(), "tokens"))


def tokens_seen(record: RunRecord) -> float:
    return max(known((*record.steps, *record.evaluations), "tokens_seen"), default=0.0)


def notes(record: RunRecord) -> list[str]:
    """What a reader must know before trusting the page: torn lines, an early end, nothing yet."""
    lines = list(record.notes)
    planned, seen = planned_tokens(record), tokens_seen(record)
    if not record.steps:
        lines.append("No step has been completed yet.")
    elif planned and seen < 0.999 * planned:
        lines.append(
            f"The run stands at {seen / planned:.1%} of its planned {short_number(planned)} tokens."
        )
    rollbacks = of_spikes(record.steps[-1], "rollbacks") if record.steps else None
    if rollbacks:
        times = "once" if rollbacks == 1 else f"{rollbacks:.0f} times"
        lines.append(
            f"The run went back to a checkpoint {times}, because its loss spiked, and stepped over data: "
            "see stepped_over.jsonl."
        )
    if record.steps and not record.evaluations:
        lines.append("There is no evaluation yet, so nothing here is held-out.")
    return lines


def facts(record: RunRecord) -> list[tuple[str, str]]:
    """The line under the title: size, devices, dates, versions; only what is known."""
    summary, found = record.summary, list[tuple[str, str]]()
    parameters = finite_value(summary, "parameters")
    if parameters:
        found.append(("Parameters", f"{short_number(parameters)} ({parameters:,.0f})"))
    device, ranks = summary.get("device"), finite_value(summary, "world_size")
    words = [str(device)] if device else []
    words += [f"{ranks:.0f} {'rank' if ranks == 1 else 'ranks'}"] if ranks else []
    if words:
        found.append(("Devices", ", ".join(words)))
    started, finished = (moment(summary.get(key)) for key in ("started", "finished"))
    if started:
        found.append(("Started", f"{started:%Y-%m-%d %H:%M}"))
    if started and finished and finished > started:
        found.append(("Finished", f"{finished:%Y-%m-%d %H:%M}"))
    versions = summary.get("versions")
    if isinstance(versions, dict) and versions:
        found.append(("Versions", ", ".join(f"{name} {v}" for name, v in versions.items())))
    return found


def moment(value: object) -> datetime | None:
    """A date written as ISO text or as seconds since 1970 (UTC); None where it is neither."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except (ValueError, OverflowError, OSError):
        return None
    return found.replace(tzinfo=found.tzinfo or UTC) if found else None


def headline(record: RunRecord) -> list[str]:
    """The figures a reader looks for first, as tiles; a tile without data is left out."""
    tiles, seconds = list[str](), sum(known(record.steps, "step_seconds"))
    newest = record.evaluations[-1] if record.evaluations else Row()
    loss = finite_value(newest, "loss")
    trained = known(record.steps, "loss")
    if loss is not None:
        tiles.append(
            tile("Held-out loss", f"{loss:.3f}", f"perplexity {math.exp(min(loss, 700)):.3g}")
        )
        for name in ("bigram", "unigram"):
            yardstick = finite_value(newest, f"{name}_loss")
            if yardstick is not None:
                text = f"{name} loss {yardstick:.3f}"
                tiles.append(tile(f"Against {name}", signed(loss - yardstick), text))
    elif trained:
        tiles.append(tile("Training loss", f"{trained[-1]:.3f}", "at the last step"))
    gain = quarter_gain(newest)
    if gain is not None:
        bigram = quarter_gain(newest, "bigram_loss")
        text = f"loss in a segment, “{newest['stage']}”"
        text = f"bigram: {signed(bigram)}" if bigram is not None else text
        tiles.append(tile("Last against first quarter", signed(gain), text))
    if record.steps:
        number = record.steps[-1]["step"]
        tiles.append(
            tile(
                "Tokens",
                short_number(tokens_seen(record)),
                f"in {number:,} {'step' if number == 1 else 'steps'}",
            )
        )
    if seconds:
        rate = weighted_mean(record.steps, "tokens_per_second", "step_seconds")
        started, finished = (moment(record.summary.get(key)) for key in ("started", "finished"))
        text = "in optimizer steps"
        if started and finished and (wall := (finished - started).total_seconds()) >= seconds:
            text = f"in steps, {duration(wall)} in all"
        tiles.append(tile("Time", duration(seconds), text))
        if rate is not None:
            tiles.append(tile("Tokens per second", short_number(rate), power(record)))
    padding = weighted_mean(record.steps, "padding_fraction", "batch_tokens")
    if padding is not None:
        memory = max(known(record.steps, "peak_memory_bytes"), default=0.0)
        text = f"peak memory {memory / 2**30:.3g} GiB" if memory else "of all tokens"
        tiles.append(tile("Padding", f"{padding:.2%}", text))
    return tiles


def power(record: RunRecord) -> str:
    """The model's arithmetic rate, and its share of the device's peak where the run knows it."""
    flops = weighted_mean(record.steps, "model_flops_per_second", "step_seconds")
    share = weighted_mean(record.steps, "mfu", "step_seconds")
    scale, prefix = (1e12, "T") if (flops or 0.0) >= 1e12 else (1e9, "G")
    words = [f"{flops / scale:.3g} {prefix}FLOP/s of the model"] if flops else []
    words += [f"MFU {share:.1%}"] if share else []
    return ", ".join(words) or "all ranks together"


def quarter_gain(evaluation: Row, loss: str = "loss") -> float | None:
    """Loss of a segment's last quarter less that of its first: the model's, or a yardstick's."""
    first, last = (
        finite_value(evaluation, f"{quarter}_quarter_{loss}") for quarter in ("first", "last")
    )
    return None if first is None or last is None else last - first


def signed(value: float) -> str:
    """With a true minus sign."""
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def duration(seconds: float) -> str:
    """950 ms, 42 s, 12 min 05 s, 3 h 07 min."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return (
        f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
    )


def tile(name: str, value: str, text: str) -> str:
    name, value, text = (html.escape(part) for part in (name, value, text))
    return f"<div class=tile><span>{name}</span><b>{value}</b><small>{text}</small></div>"


def chip(record: RunRecord, stage: str) -> str:
    colour = record.stage_names.index(stage) % NUM_COLOURS
    return f'<span class=chip style="--c:var(--stage{colour})">{html.escape(stage)}</span>'


def stages_table(record: RunRecord) -> str:
    """One row per stage, planned or seen; a column that nobody fills is left out."""
    rows = [stage_row(record, stage) for stage in record.stage_names]
    columns = [name for name in (rows[0] if rows else ()) if any(row[name] for row in rows)]
    head = "".join(f"<th scope=col>{name}</th>" for name in columns)
    body = ""
    for stage, row in zip(record.stage_names, rows, strict=True):
        cells = f"<th scope=row>{chip(record, stage)}</th>"
        for name in columns:
            text = row[name] or "\N{EN DASH}"
            cells += f'<td data-label="{name}">{text}</td>'
        body += f"<tr>{cells}</tr>"
    head = f"<thead><tr><th scope=col>Stage</th>{head}</tr></thead>"
    return f"<table>{head}<tbody>{body}</tbody></table>"


def stage_row(record: RunRecord, stage: str) -> dict[str, str]:
    """The table's cells for one stage: what was planned, else what the steps say."""
    plan, steps = record.planned_stages.get(stage, {}), record.steps_of(stage)
    evaluation = record.last_evaluation(stage)
    loss, bigram = finite_value(evaluation, "loss"), finite_value(evaluation, "bigram_loss")

    def setting(key: str) -> float | None:
        value = finite_value(plan, key)
        return value if value is not None else max(known(steps, key), default=None)

    seen = sum(end - start for name, start, end in record.spans() if name == stage)
    wanted, length, base = (
        finite_value(plan, "tokens"),
        setting("sequence_length"),
        setting("rope_base"),
    )
    rate, batch, gain = setting("learning_rate"), setting("batch_tokens"), quarter_gain(evaluation)
    padding = weighted_mean(steps, "padding_fraction", "batch_tokens")
    speed = weighted_mean(steps, "tokens_per_second", "step_seconds")
    tokens = short_number(seen) if steps else "not reached"
    if wanted and steps and seen < 0.999 * wanted:
        tokens += f" of {short_number(wanted)}"
    return {
        "Tokens": tokens,
        "Sequence length": length_label(length) if length else "",
        "RoPE base": short_number(base) if base else "",
        "Learning rate": f"{rate:.2g}" if rate is not None else "",
        "Batch tokens": short_number(batch) if batch else "",
        "Steps": f"{len(steps):,}" if steps else "",
        "Held-out loss": f"{loss:.3f}" if loss is not None else "",
        "Against bigram": signed(loss - bigram) if loss is not None and bigram is not None else "",
        "Last less first quarter": signed(gain) if gain is not None else "",
        "Padding": f"{padding:.2%}" if padding is not None else "",
        "Tokens/s": short_number(speed) if speed else "",
    }


def card(figure: Figure) -> str:
    kind = "card wide" if figure.wide else "card"
    title, unit = html.escape(figure.title), html.escape(figure.unit)
    return (
        f"<section class='{kind}'><h3>{title}</h3><p class=unit>{unit}</p>"
        f'<div class=plot id="plot-{figure.key}" style="height:{figure.height}px" '
        f'role=img aria-label="{title}"></div></section>'
    )


def main() -> int:
    """Command line: one run folder in, the page's path out."""
    parser = argparse.ArgumentParser(
        prog="python -m train.report", description="Write report.html."
    )
    parser.add_argument("run_folder", type=Path, help="outputs/RUN_NAME")
    try:
        path = write_report(parser.parse_args().run_folder)
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")
    sys.stdout.write(f"{path}\n")
    return 0
