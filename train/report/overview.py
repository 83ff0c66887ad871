"""The head of the page: status of the run, warnings, and the most important numbers."""

import html
import math
from datetime import UTC, datetime

from train.report.model_words import parameters
from train.report.record import RunRecord, total_seconds
from train.report.rows import Row, finite_value, known, mapping, weighted_mean
from train.report.units import (
    duration,
    moment,
    moment_text,
    operations,
    percent,
    plural,
    short_number,
    signed,
    size,
    whole_number,
)

_RECENT = 50  # steps whose speed gives the time left


def standing(record: RunRecord, *, running: bool) -> str:
    """Returns the status of the run, from its files. running: the run itself writes this page."""
    if record.evaluated:
        step = whole_number(finite_value(record.evaluated, "step") or 0)
        model = record.evaluated.get("kind") == "model"
        return "Evaluation of a Hugging Face model" if model else f"Evaluation of step {step}"
    summary, planned = record.summary, record.planned_tokens
    share = f"{min(1.0, record.tokens_seen / planned):.1%} of its tokens seen" if planned else ""
    ended = finite_value(summary, "steps")
    here = ended is not None and ended == (record.steps[-1]["step"] if record.steps else 0)
    if running and not record.steps:
        return "Starting"
    if running:
        words = [
            "Training",
            share,
            f"about {duration(left)} of steps left" if (left := time_left(record)) else "",
        ]
        return ", ".join(word for word in words if word)
    if here and summary.get("complete") is True:
        return "Complete"
    if failure := str(summary.get("failure") or record.error if here else record.error):
        return ", ".join(word for word in (f"Failed: {failure}", share) if word)
    if here:
        return f"Stopped and saved, {share}" if share else "Stopped and saved"
    if record.last_row is None:
        return "Started, no step yet"
    unfinished = ", ".join(word for word in ("Unfinished", share) if word)
    return f"{unfinished}; its last row was written at {moment_text(record.last_row)}"


def time_left(record: RunRecord) -> float | None:
    """Returns the seconds left at the speed of the current stage's newest steps; None if unknown."""
    left = record.planned_tokens - record.tokens_seen
    if not record.steps or left <= 0:
        return None
    newest = record.steps_of(record.steps[-1]["stage"])[-_RECENT:]
    rate = weighted_mean(newest, "tokens_per_second", "step_seconds")
    return left / rate if rate else None


def written(record: RunRecord, now: datetime | None = None) -> str:
    """Returns when the page was written, and after which step."""
    when = f"Written {moment_text(now or datetime.now(UTC))}"
    if record.evaluated:
        return when
    if not record.steps:
        return f"{when}, before the first step"
    return f"{when}, after step {whole_number(record.steps[-1]['step'])}"


def notes(record: RunRecord) -> list[str]:
    """Returns warnings about the data on the page: torn lines, skipped steps, no held-out loss."""
    lines = list(record.notes)
    if not record.steps and not record.evaluated:
        lines.append("No step has been completed yet.")
    spikes = mapping(record.steps[-1], "spikes") if record.steps else Row()
    if rollbacks := finite_value(spikes, "rollbacks"):
        times = "once" if rollbacks == 1 else f"{rollbacks:.0f} times"
        lines.append(
            f"The run went back to a checkpoint {times}, because its loss spiked, and stepped over data: "
            "see stepped_over.jsonl."
        )
    skipped = sum(row.get("skipped") is True for row in record.steps)
    if skipped:
        lines.append(
            f"{plural(skipped, 'step')} of {whole_number(len(record.steps))} changed nothing "
            "(not finite, or a spike): see Gradient norm."
        )
    failures = finite_value(record.steps[-1], "checkpoint_failures") if record.steps else None
    if failures:
        lines.append(f"{plural(failures, 'checkpoint')} could not be written: see log.txt.")
    if record.steps and not record.evaluations:
        lines.append("There is no evaluation yet, so nothing here is held-out.")
    return lines


def head_facts(record: RunRecord) -> dict[str, str]:
    """Returns the facts under the title: size, devices, dates; empty where unknown."""
    summary, start = record.summary, record.newest_start
    count = finite_value(summary, "parameters") or parameters(record)
    words = device_words({**summary, **start})
    first = record.starts[0] if record.starts else summary
    started, finished = moment(first.get("started")), moment(summary.get("finished"))
    since = moment(start.get("started")) or started
    over = finished if finished and since and finished >= since else None
    return {
        "Parameters": f"{short_number(count)} ({whole_number(count)})" if count else "",
        "Devices": words,
        "Started": moment_text(started) if started else "",
        "Ended": moment_text(over) if over else "",
        "Starts": f"{len(record.starts)}" if len(record.starts) > 1 else "",
    }


def device_words(row: Row) -> str:
    """Returns the devices in words: 2 ranks on cpu; 8 ranks on cuda (NVIDIA H100 80GB HBM3)."""
    ranks, device, name = finite_value(row, "world_size"), row.get("device"), row.get("device_name")
    words = plural(ranks, "rank") if ranks else ""
    words += f"{' on ' if words else ''}{device}" if device else ""
    return f"{words} ({name})" if words and name else words


def tiles(record: RunRecord) -> str:
    """Returns the most important numbers as tiles; leaves out tiles without data."""
    newest = record.evaluations[-1] if record.evaluations else Row()
    found = [*_loss_tiles(record, newest)]
    if record.steps:
        number, planned = record.steps[-1]["step"], record.planned_tokens
        text = f"in {plural(number, 'step')}"
        text += (
            f", of {short_number(planned)} planned" if record.tokens_seen < 0.999 * planned else ""
        )
        found.append(tile("Tokens", short_number(record.tokens_seen), text))
    found += _speed_tiles(record)
    return f"<div class=tiles>{''.join(found)}</div>" if found else ""


def _loss_tiles(record: RunRecord, newest: Row) -> list[str]:
    loss, trained = finite_value(newest, "loss"), known(record.steps, "loss")
    if loss is None:
        return [tile("Training loss", f"{trained[-1]:.3f}", "at the last step")] if trained else []
    found = [tile("Held-out loss", f"{loss:.3f}", f"perplexity {math.exp(min(loss, 700)):.3g}")]
    bigram = finite_value(newest, "bigram_loss")
    if bigram is not None:
        found.append(tile("Against bigram", signed(loss - bigram), f"bigram loss {bigram:.3f}"))
    gain = quarter_gain(newest)
    if gain is not None:
        by_bigram = quarter_gain(newest, "bigram_loss")
        text = f"loss in a segment, “{newest['stage']}”"
        text = f"bigram: {signed(by_bigram)}" if by_bigram is not None else text
        found.append(tile("Last against first quarter", signed(gain), text))
    return found


def _speed_tiles(record: RunRecord) -> list[str]:
    seconds, found = total_seconds(record.steps), list[str]()
    if seconds:
        text = "in optimizer steps"
        started, finished = (moment(record.summary.get(key)) for key in ("started", "finished"))
        if len(record.starts) < 2 and started and finished:
            wall = (finished - started).total_seconds()
            text = f"in steps, {duration(wall)} in all" if wall >= seconds else text
        found.append(tile("Time", duration(seconds), text))
        rate = weighted_mean(record.steps, "tokens_per_second", "step_seconds")
        if rate is not None:
            found.append(tile("Tokens per second", short_number(rate), _power(record)))
    share = weighted_mean(record.steps, "mfu", "step_seconds")
    if share is not None:
        found.append(tile("MFU", percent(share), "of the devices' peak"))
    memory = max(known(record.steps, "peak_memory_bytes"), default=0.0)
    if memory:
        found.append(tile("Peak memory", size(memory), "of the main rank"))
    padding = weighted_mean(record.steps, "padding_fraction", "batch_tokens")
    if padding is not None:
        found.append(tile("Padding", percent(padding), "of all tokens"))
    return found


def _power(record: RunRecord) -> str:
    flops = weighted_mean(record.steps, "model_flops_per_second", "step_seconds")
    return f"{operations(flops)} of the model" if flops else "all ranks together"


def quarter_gain(evaluation: Row, loss: str = "loss") -> float | None:
    """Returns the loss of a segment's last quarter minus its first's: the model's, or a yardstick's."""
    first, last = (
        finite_value(evaluation, f"{quarter}_quarter_{loss}") for quarter in ("first", "last")
    )
    return None if first is None or last is None else last - first


def tile(name: str, value: str, text: str) -> str:
    """One figure with its name and a remark."""
    name, value, text = (html.escape(part) for part in (name, value, text))
    return f"<div class=tile><span>{name}</span><b>{value}</b><small>{text}</small></div>"
