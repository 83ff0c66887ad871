"""The table of stages: planned values (from the steps if there is no plan) and results."""

import html

from train.report.overview import quarter_gain
from train.report.record import NUM_COLOURS, RunRecord
from train.report.rows import Row, finite_value, known, mapping, weighted_mean
from train.report.stage_changes import changes_in_words, groups_in_words
from train.report.tables import html_table
from train.report.units import percent, short_number, signed, whole_number


def chip(name: str, index: int) -> str:
    """Returns a name beside its colour."""
    return (
        f'<span class=chip style="--c:var(--stage{index % NUM_COLOURS})">{html.escape(name)}</span>'
    )


def stage_table(record: RunRecord) -> str:
    """Returns one row per stage, planned or seen; leaves out empty columns."""
    rows = [_cells(record, stage) for stage in record.stage_names]
    if not rows:
        return ""
    columns = ["Stage", *rows[0]]
    cells = [
        [chip(stage, index), *map(html.escape, row.values())]
        for index, (stage, row) in enumerate(zip(record.stage_names, rows, strict=True))
    ]
    return html_table(columns, cells)


def _cells(record: RunRecord, stage: str) -> dict[str, str]:
    plan, steps = record.planned_stages.get(stage, {}), record.steps_of(stage)
    evaluation = record.last_evaluation(stage)
    loss, bigram = finite_value(evaluation, "loss"), finite_value(evaluation, "bigram_loss")

    def setting(key: str) -> float | None:
        value = finite_value(plan, key)
        return value if value is not None else max(known(steps, key), default=None)

    length, base, batch = map(setting, ("sequence_length", "rope_base", "batch_tokens"))
    rate, gain = setting("learning_rate"), quarter_gain(evaluation)
    padding = weighted_mean(steps, "padding_fraction", "batch_tokens")
    speed = weighted_mean(steps, "tokens_per_second", "step_seconds")
    share = weighted_mean(steps, "mfu", "step_seconds")
    return {
        "Tokens": _tokens(record, stage),
        "Steps": whole_number(len(steps)) if steps else "",
        "Sequence length": whole_number(length) if length else "",
        "RoPE base": whole_number(base) if base else "",
        "Documents": documents_words(plan),
        "Attention": changes_in_words(plan),
        "Parameter groups": groups_in_words(record.config, plan),
        "Peak learning rate": f"{rate:.2g}" if rate is not None else "",
        "Batch, tokens": short_number(batch) if batch else "",
        "Held-out loss": f"{loss:.3f}" if loss is not None else "",
        "Against bigram": signed(loss - bigram) if loss is not None and bigram is not None else "",
        "Last less first quarter": signed(gain) if gain is not None else "",
        "Padding": percent(padding) if padding is not None else "",
        "Tokens/s": short_number(speed) if speed else "",
        "MFU": percent(share) if share is not None else "",
        "Layout": _layout(record, stage),
    }


def _tokens(record: RunRecord, stage: str) -> str:
    """Returns the tokens seen, with the planned number if the stage is not over."""
    seen = sum(end - start for name, start, end in record.spans() if name == stage)
    wanted = finite_value(record.planned_stages.get(stage, {}), "tokens")
    if not record.steps_of(stage):
        return f"not reached, {short_number(wanted)} planned" if wanted else "not reached"
    unfinished = wanted and seen < 0.999 * wanted
    return short_number(seen) + (f" of {short_number(wanted)}" if wanted and unfinished else "")


def documents_words(plan: Row) -> str:
    """Returns how documents of a row are kept apart, where that is not the default: "no mask, positions go on"."""
    pose = mapping(plan, "pose")
    reached, chunks = finite_value(pose, "target_length"), finite_value(pose, "chunks")
    words = (
        "no mask" if plan.get("document_mask") is False else "",
        "positions go on" if plan.get("reset_positions") is False else "",
        f"PoSE to {whole_number(reached)} in {chunks:.0f} chunks" if reached and chunks else "",
    )
    return ", ".join(filter(None, words))


def _layout(record: RunRecord, stage: str) -> str:
    """Returns the axes of more than one rank, and the ZeRO stage: tensor 2 x data 4, ZeRO-1."""
    own = mapping(record.planned_stages.get(stage, {}), "parallel")
    layout = {**mapping(record.config, "parallel"), **own}
    axes = {axis: finite_value(layout, axis) or 1 for axis in ("tensor", "pipeline", "sequence")}
    ranks = finite_value({**record.summary, **record.newest_start}, "world_size")
    together = axes["tensor"] * axes["pipeline"] * axes["sequence"]
    if ranks and together > 0:
        axes["data"] = ranks // together
    words = " x ".join(f"{axis} {count:.0f}" for axis, count in axes.items() if count > 1)
    zero = finite_value(layout, "zero_stage")
    zero_words = f"ZeRO-{zero:.0f}" if zero is not None and axes.get("data", 0) > 1 else ""
    return ", ".join(part for part in (words, zero_words) if part)
