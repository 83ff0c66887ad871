"""Section on the setup: how and where the run was started, and its checkpoints."""

import html
import shlex

from train.report.overview import device_words
from train.report.record import RunRecord
from train.report.rows import Row, finite_value, mapping, mappings
from train.report.tables import facts, html_table, paragraph, table
from train.report.units import duration, moment, moment_text, plural, size, whole_number


def command_section(record: RunRecord) -> str:
    """Returns the newest start's command, folder, commit and versions; if there are several, a table of all."""
    start = record.newest_start
    versions = mapping(start, "versions") or mapping(record.summary, "versions")
    commit = commit_words(start)
    if not start:
        hosts = mappings(record.preflight, "hosts")
        commit = next((str(host["commit"]) for host in hosts if host.get("commit")), "")
    text = ""
    if command := command_words(start):
        text = f"<pre>{html.escape(command)}</pre>"
    text += facts(
        {
            "Folder": str(start.get("folder") or ""),
            "Commit": commit,
            "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        }
    )
    if len(record.starts) < 2:
        return text
    rows = [
        [
            moment_text(when) if (when := moment(row.get("started"))) else "",
            whole_number(finite_value(row, "step") or 0),
            device_words(row),
            commit_words(row),
            f"<code>{html.escape(command_words(row))}</code>",
        ]
        for row in record.starts
    ]
    escaped = [[*map(html.escape, row[:4]), row[4]] for row in rows]
    columns = ["Started", "From step", "Devices", "Commit", "Command of every rank"]
    return text + html_table(columns, escaped, words=True)


def command_words(start: Row) -> str:
    """Returns the command of every rank, quoted for a shell; empty if unknown."""
    command = start.get("command")
    if not isinstance(command, list) or not command:
        return ""
    return shlex.join([str(part) for part in command])


def commit_words(start: Row) -> str:
    """Returns the short commit and how many files differed from it."""
    commit, changed = start.get("commit"), finite_value(start, "changed_files")
    if not commit:
        return "not known" if start else ""
    short = str(commit)[:12]
    if changed is None:
        return short
    return (
        f"{short} with changes in {plural(changed, 'file')}" if changed else f"{short}, no changes"
    )


def machine_section(record: RunRecord) -> str:
    """Returns the hosts, links and findings of the newest preflight."""
    found = record.preflight
    if not found:
        return ""
    lines = [("problem", found.get("problems")), ("warning", found.get("warnings"))]
    said = [
        f"{kind}: {line}"
        for kind, all_ in lines
        for line in (all_ if isinstance(all_, list) else ())
    ]
    text = "".join(paragraph(line, "note") for line in said)
    if not said:
        text = paragraph("The preflight found nothing to mend.", "unit")
    return text + _hosts(mappings(found, "hosts")) + _links(mappings(found, "axes"))


def _hosts(hosts: list[Row]) -> str:
    rows = []
    for host in hosts:
        ranks, gpus = host.get("ranks"), host.get("gpus")
        offset = finite_value(host, "clock_offset_seconds")
        if offset is None and isinstance(host.get("clock_offset_seconds"), list):
            offset = (
                finite_value({"": host["clock_offset_seconds"][0]}, "")
                if host["clock_offset_seconds"]
                else None
            )
        rows.append(
            [
                str(host.get("name")),
                _ranges(ranks) if isinstance(ranks, list) else "",
                plural(len(gpus), "GPU") if isinstance(gpus, list) and gpus else "",
                duration(abs(offset)) if offset is not None else "",
            ]
        )
    return (
        table(["Host", "Ranks", "GPUs", "Clock apart from the main rank's"], rows) if rows else ""
    )


def _ranges(ranks: list[object]) -> str:
    """Returns the ranks as ranges: 0-7, 16-23."""
    found = list[list[int]]()
    for rank in sorted({rank for rank in ranks if isinstance(rank, int)}):
        if found and rank == found[-1][1] + 1:
            found[-1][1] = rank
        else:
            found.append([rank, rank])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in found)


def _links(axes: list[Row]) -> str:
    rows = []
    for axis in axes:
        reduced = finite_value(axis, "all_reduce_bytes_per_second")
        ring = mapping(axis, "ring_bytes_per_second")
        slowest, median = finite_value(ring, "min"), finite_value(ring, "median")
        latency, pair = finite_value(axis, "latency_seconds"), axis.get("slowest_link")
        between = (
            f"{pair[0]} \N{RIGHTWARDS ARROW} {pair[1]}"
            if isinstance(pair, list) and len(pair) == 2
            else ""
        )
        rows.append(
            [
                str(axis.get("axis")),
                whole_number(finite_value(axis, "size") or 0),
                whole_number(finite_value(axis, "groups") or 0),
                duration(latency) if latency is not None else "",
                f"{size(reduced)}/s" if reduced else "",
                f"{size(median)}/s" if median else "",
                f"{size(slowest)}/s" if slowest else "",
                between,
            ]
        )
    columns = [
        "Axis",
        "Ranks",
        "Groups",
        "Latency",
        "All-reduce",
        "Link, median",
        "Link, slowest",
        "Slowest between",
    ]
    return table(columns, rows) if rows else ""


def checkpoint_section(record: RunRecord) -> str:
    """Returns the table of checkpoints/ at the time the page is written."""
    rows = [
        [found.name, moment_text(found.written), size(found.num_bytes)]
        for found in record.checkpoints
    ]
    if rows:
        return table(["Checkpoint", "Written", "Size"], rows)
    return paragraph("There is no checkpoint yet.", "unit") if record.steps else ""
