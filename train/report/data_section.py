"""Section on the data: sources with their tokens, epochs and shares, and the lengths of their documents."""

import html
from collections.abc import Iterable

from train.report.axes import Figure, base_layout
from train.report.record import NUM_COLOURS, RunRecord
from train.report.rows import Row, finite_value, known, mapping, rounded
from train.report.tables import paragraph, table
from train.report.units import short_number, whole_number

Lengths = list[tuple[float, float, float]]


def sources(record: RunRecord) -> dict[str, Row]:
    """Returns the facts of every source in the newest row of starts.jsonl, by name, in order."""
    found = mapping(record.newest_start, "sources")
    return {str(name): row for name, row in found.items() if isinstance(row, dict)}


def data_section(record: RunRecord) -> str:
    """Returns the table of sources, and the planned shares by stage if stages differ in them."""
    there = sources(record)
    if not there:
        return (
            paragraph("This run has no record of its sources (starts.jsonl).", "unit")
            if record.steps
            else ""
        )
    planned = planned_tokens(record)
    seen = seen_tokens(record)
    rows = []
    for name, source in there.items():
        tokens = finite_value(source, "tokens") or 0.0
        plan, so_far = planned.get(name), seen.get(name)
        rows.append(
            [
                name,
                short_number(tokens),
                short_number(finite_value(source, "documents") or 0.0),
                _epochs(plan, tokens),
                _epochs(so_far, tokens),
                _share(plan, planned.values()),
                _share(so_far, seen.values()),
                _origin(source),
            ]
        )
    columns = [
        "Source",
        "Tokens",
        "Documents",
        "Epochs planned",
        "Epochs seen",
        "Share planned",
        "Share seen",
        "Files or task",
    ]
    text = table(columns, rows)
    heldout = mapping(record.newest_start, "heldout")
    held_out = finite_value(heldout, "tokens")
    if held_out:
        documents = short_number(finite_value(heldout, "documents") or 0.0)
        words = f"Held out: {short_number(held_out)} tokens in {documents} documents, {_origin(heldout)}."
        text += paragraph(words, "unit")
    return text + _mix_table(record)


def _origin(source: Row) -> str:
    """Returns the prefix of a source's files, or task, version and settings of generated documents."""
    return str(source.get("prefix") or source.get("generated") or "")


def _epochs(tokens: float | None, of_source: float) -> str:
    return f"{tokens / of_source:.3g}" if tokens is not None and of_source else ""


def _share(tokens: float | None, of_all: Iterable[float]) -> str:
    total = sum(of_all)
    return f"{tokens / total:.1%}" if tokens is not None and total else ""


def planned_tokens(record: RunRecord) -> dict[str, float]:
    """Returns the stream tokens planned from every source over all stages, padding included."""
    found = dict[str, float]()
    for stage, shares in mixes(record).items():
        tokens = finite_value(record.planned_stages.get(stage, {}), "tokens") or 0.0
        for name, share in shares.items():
            found[name] = found.get(name, 0.0) + share * tokens
    return found


def mixes(record: RunRecord) -> dict[str, dict[str, float]]:
    """Returns the planned share of every source, by stage; the shares of a stage sum to 1."""
    found = dict[str, dict[str, float]]()
    for stage, weights in mapping(record.newest_start, "mix").items():
        kept = {
            str(name): weight
            for name in (weights if isinstance(weights, dict) else ())
            if (weight := finite_value(weights, name)) is not None and weight >= 0
        }
        total = sum(kept.values())
        if total > 0:
            found[str(stage)] = {name: weight / total for name, weight in kept.items()}
    return found


def seen_tokens(record: RunRecord) -> dict[str, float]:
    """Returns the tokens seen of every source, over all steps; empty if the rows lack them.

    The rows count targets. Of a source whose tokens do not all have a label, so many tokens are taken as hold these on
    the average.
    """
    found = dict[str, float]()
    for row in record.steps:
        for name, source in mapping(row, "sources").items():
            if isinstance(source, dict):
                tokens = finite_value(source, "tokens") or 0.0
                found[str(name)] = found.get(str(name), 0.0) + tokens
    for name, source in sources(record).items():
        labelled = finite_value(source, "labelled_tokens")
        if labelled and name in found:
            found[name] *= (finite_value(source, "tokens") or 0.0) / labelled
    if not found and len(sources(record)) == 1:  # rows of a version that did not record sources
        return {name: sum(known(record.steps, "valid_tokens")) for name in sources(record)}
    return found


def source_losses(row: Row) -> dict[str, float]:
    """Returns the loss of every source in a row of metrics.jsonl; empty if the row has none."""
    return {
        str(name): loss
        for name, source in mapping(row, "sources").items()
        if isinstance(source, dict) and (loss := finite_value(source, "loss")) is not None
    }


def _mix_table(record: RunRecord) -> str:
    """Returns the table of planned shares by stage; empty if all stages have the same."""
    planned = mixes(record)
    if len({tuple(sorted(shares.items())) for shares in planned.values()}) < 2:
        return ""
    rows = [
        [name, *(f"{shares[name]:.1%}" if shares.get(name) else "" for shares in planned.values())]
        for name in sources(record)
    ]
    return paragraph("Planned share of every stage's tokens", "unit") + table(
        ["Source", *planned], rows
    )


def length_table(source: Row) -> Lengths:
    """Returns (longest, documents, tokens) by octave of length, shortest first, without invalid entries."""
    found = Lengths()
    rows = source.get("lengths")
    for row in rows if isinstance(rows, list) else ():
        values = [finite_value({"": value}, "") for value in row] if isinstance(row, list) else []
        if len(values) == 3 and None not in values:
            longest, documents, tokens = (value or 0.0 for value in values)
            if 0 <= longest < 2**62 and documents >= 0 and tokens >= 0:
                found.append((longest, documents, tokens))
    return sorted(found)


def lengths_figure(record: RunRecord) -> Figure:
    """Returns bars of every source's share of tokens by the length of their documents."""
    tables = {name: length_table(source) for name, source in sources(record).items()}
    tables = {name: rows for name, rows in tables.items() if sum(row[2] for row in rows) > 0}
    octaves = _octaves(tables.values())
    labels = [whole_number(longest) for longest in octaves]
    data = list[Row]()
    for index, (name, rows) in enumerate(tables.items()):
        total = sum(tokens for _, _, tokens in rows)
        by_octave = {longest: (documents, tokens) for longest, documents, tokens in rows}
        there = [by_octave.get(longest, (0.0, 0.0)) for longest in octaves]
        data.append(
            {"type": "bar", "name": html.escape(name), "x": labels}
            | {"y": [rounded(tokens / total) for _, tokens in there]}
            | {"marker": {"color": f"@source{index % NUM_COLOURS}"}}
            | {
                "customdata": [
                    f"{short_number(t)} tokens in {short_number(d)} documents" for d, t in there
                ]
            }
            | {
                "hovertemplate": f"<b>{html.escape(name)}</b> · to %{{x}} tokens long<br>%{{y:.1%}}: "
                "%{customdata}<extra></extra>"
            }
        )
    layout = base_layout(
        {
            "type": "category",
            "title": {"text": "length of the document, tokens (up to)"},
            "tickangle": 0,
        },
        {"tickformat": ".0%", "rangemode": "tozero"},
    )
    layout |= {
        "hovermode": "closest",
        "barmode": "group",
        "bargap": 0.2,
        "showlegend": len(data) > 1,
    }
    layout["legend"] = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
    unit = "share of the source's tokens, by the length of the document they stand in"
    return Figure("lengths", _lengths_title(record, tables), unit, data, layout, wide=True)


def _octaves(tables: Iterable[Lengths]) -> list[float]:
    """Returns the longest length of every octave from the shortest document to the longest, empty octaves included."""
    there = [longest for rows in tables for longest, _, _ in rows if longest >= 1]
    found = [min(there, default=0.0)]
    while found[-1] < max(there, default=0.0):
        found.append(2 * found[-1])
    return found


def _lengths_title(record: RunRecord, tables: dict[str, Lengths]) -> str:
    """Returns a sentence on the share of the data longer than the longest stage."""
    lengths = [finite_value(plan, "sequence_length") for plan in record.planned_stages.values()]
    most = int(max((length for length in lengths if length), default=0.0))
    rows = [row for table_ in tables.values() for row in table_]
    total = sum(tokens for _, _, tokens in rows)
    # Counts an octave only if all its lengths exceed the longest stage's.
    longer = sum(tokens for longest, _, tokens in rows if longest / 2 >= most)
    if most < 1 or not total or most & (most - 1):  # octaves end at powers of two
        return "Lengths of documents"
    return f"{longer / total:.0%} of the tokens stand in documents longer than {whole_number(most)}"
