"""The tables of `retrieval_small.py`, from the numbers in its record alone."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

Row = Mapping[str, Any]
HAYSTACKS: Mapping[str, str] = MappingProxyType({"noise": "noise", "documents": "text"})
# Tokens of a prompt that are no filler, and those from the needle to the answer beside filler.
_FIXED, _BETWEEN = 22, 11
# Longest distances of the lines of the table; the first is that of a needle right before the question.
DISTANCES = (_BETWEEN, 128, 512, 1_024, 4_096, 16_384)
# A task has a difference if the shares of hits differ by more than this, or else the losses in nats by more than that.
_HITS_DIFFER, _LOSSES_DIFFER = 0.1, 0.25


def table(numbers: Row) -> str:
    """The text of the block."""
    parts = [
        _runs(numbers),
        _curve(numbers["curve"]),
        *(_grid(numbers["keys"]["trained"], haystack) for haystack in (*HAYSTACKS, "notes")),
        _distances(numbers["keys"]),
        _controls(numbers["controls"]),
        _catalogue(numbers),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _runs(numbers: Row) -> list[str]:
    lines = [f"{'run':<12}{'steps':>7}{'M tokens':>10}{'CPU s':>8}{'loss on text':>14}  stages"]
    for model, run in numbers["runs"].items():
        lines.append(
            f"{model:<12}{run['steps']:>7,}{run['tokens'] / 1e6:>10.2f}{run['cpu_seconds']:>8,}"
            f"{run['held_out_loss']:>14.2f}  {', '.join(run['stages'])}"
        )
    return lines


def _curve(points: Sequence[Row]) -> list[str]:
    """Loss and hits of the pass key over training: a line each time it was asked for, a column for each length."""
    lengths = sorted({point["length"] for point in points})
    head = "".join(f"{f'{length:,}':>13}" for length in lengths)
    lines = [
        "pass key while it trains: nats a token of the answer, and hits in percent, by length",
        f"{'M tokens':>8}  {'stage':<7}{'noise:':<6}{head}  {'text:':<5}{head}",
    ]
    moments = dict.fromkeys((point["tokens"], point["stage"]) for point in points)
    for tokens, stage in moments:
        cells = []
        for task in ("passkey", "key_in_text"):
            own = {
                point["length"]: point
                for point in points
                if (point["tokens"], point["task"]) == (tokens, task)
            }
            cells.append("".join(f"{_short(own[length]):>13}" for length in lengths))
        lines.append(
            f"{tokens / 1e6:>8.2f}  {stage:<7}{'':<6}{cells[0]}  {'':<5}{cells[1]}".rstrip()
        )
    return lines


def _short(point: Row) -> str:
    return f"{point['loss']:.2f} {100 * point['hits'] / point['prompts']:3.0f}"


def _grid(grids: Mapping[str, Sequence[Row]], haystack: str) -> list[str]:
    """Hits in percent: a line for each depth, a column for each length."""
    cells = grids[haystack]
    asked = f"pass key in {HAYSTACKS[haystack]}" if haystack in HAYSTACKS else "one of many notes"
    lengths = sorted({cell["length"] for cell in cells})
    by_place = {(cell["length"], cell["depth"]): cell for cell in cells}
    lines = [
        f"trained, {asked}: hits in percent by depth and length (trained to 1,024)",
        f"{'depth':>6}" + "".join(f"{f'{length:,}':>8}" for length in lengths),
    ]
    for depth in sorted({cell["depth"] for cell in cells}):
        shares = [_percent([by_place[length, depth]]) for length in lengths]
        lines.append(f"{depth:>6.3f}" + "".join(f"{share:>8}" for share in shares))
    return lines


def _distances(keys: Mapping[str, Mapping[str, Sequence[Row]]]) -> list[str]:
    """Hits in percent: a line for each range of distances, a column for each model and haystack."""
    columns = [(model, haystack) for model in keys for haystack in HAYSTACKS]
    lines = [
        "hits in percent (answers) by distance, about: tokens from the key to the answer",
        f"{'distance':<15}"
        + "".join(f"{f'{model}, {HAYSTACKS[haystack]}':>19}" for model, haystack in columns),
    ]
    for label, inside in _ranges():
        shares = []
        for model, haystack in columns:
            own = [cell for cell in keys[model][haystack] if distance(cell) in inside]
            asked = sum(cell["prompts"] for cell in own)
            shares.append(f"{_percent(own)} ({asked})" if own else "-")
        lines.append(f"{label:<15}" + "".join(f"{share:>19}" for share in shares))
    return lines


def distance(cell: Row) -> int:
    """Tokens from the key to the answer, about: a needle lies between two sentences or lines of the filler."""
    return round((1 - cell["depth"]) * (cell["length"] - _FIXED)) + _BETWEEN


def _ranges() -> Iterator[tuple[str, range]]:
    first = 0
    for last in DISTANCES:
        yield f"{first + 1:,} to {last:,}" if first else f"{last}", range(first, last + 1)
        first = last


def _percent(cells: Sequence[Row]) -> str:
    share = sum(cell["hits"] for cell in cells) / sum(cell["prompts"] for cell in cells)
    return f"{100 * share:.0f}"


def _controls(rows: Sequence[Row]) -> list[str]:
    lines = [
        "controls at 1,024 tokens: hits in percent, and loss",
        f"{'haystack':<12}{'prompts':>8}{'with needle':>14}{'removed':>14}{'of another':>14}",
    ]
    for row in rows:
        scores = [row, row["removed"], row["swapped"]]
        cells = [f"{100 * one['hits'] / row['prompts']:.0f}  {one['loss']:.2f}" for one in scores]
        name = HAYSTACKS[row["haystack"]]
        lines.append(f"{name:<12}{row['prompts']:>8}" + "".join(f"{cell:>14}" for cell in cells))
    return lines


def _catalogue(numbers: Row) -> list[str]:
    last = numbers["last_tokens"]
    lines = [
        f"every task, trained model: the whole prompt beside its last {last} tokens",
        f"{'':<20}{'':>7}{'':>8}{'hits, percent':>16}{'loss':>15}",
        f"{'task':<20}{'length':>7}{'prompts':>8}{'whole':>8}{'last':>8}{'whole':>8}{'last':>7}"
        "  difference",
    ]
    for row in numbers["catalogue"]:
        shares = [one["hits"] / row["prompts"] for one in (row, row["last_part"])]
        losses = [one["loss"] for one in (row, row["last_part"])]
        lines.append(
            f"{row['task']:<20}{row['length']:>7,}{row['prompts']:>8}"
            + "".join(f"{100 * share:>8.0f}" for share in shares)
            + f"{losses[0]:>8.2f}{losses[1]:>7.2f}  {verdict(shares, losses)}"
        )
    names = ", ".join(numbers["need_files"])
    return [*lines, f"not asked, for they need the user's files: {names}"]


def verdict(shares: Sequence[float], losses: Sequence[float]) -> str:
    """Whether the whole prompt helps: in hits, in the loss only, or not."""
    if shares[0] - shares[1] > _HITS_DIFFER:
        return "hits"
    if losses[1] - losses[0] > _LOSSES_DIFFER:
        return "loss only"
    return "none"
