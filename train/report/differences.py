"""The configuration as differences from the schema's defaults."""

import html
import json
import re
from collections.abc import Sequence
from typing import Any

from train.configuration.idle import flat
from train.configuration.keys import field_at, key_mistake
from train.configuration.renamed_keys import renamed_model
from train.configuration.typed import WRONG, default_of, plain
from train.report.record import RunRecord
from train.report.rows import Row
from train.report.tables import html_table, paragraph
from train.report.units import plural

# The `parallel` keys of a stage override those of the run.
_STAGE_LAYOUT = re.compile(r"^schedule\.stages\.[^.]+\.parallel\.")
NO_DEFAULT = "none"
ABSENT = "not a key of this version"


def today(config: Row) -> Row:
    """Returns the configuration under current names of keys."""
    model = config.get("model")
    return {**config, "model": renamed_model(model)} if isinstance(model, dict) else config


def differences(config: Row) -> list[tuple[str, str, str]]:
    """Returns (key, value, default) of every key not at the schema's default, in the order of config.yaml."""
    found = []
    tree = today(config)
    for key, value in flat(tree):
        plain_key = _STAGE_LAYOUT.sub("parallel.", key)
        field = field_at(plain_key.split("."))
        if field is None:
            # An entry of a mapping, such as a source's weight in a stage, or a key of another version.
            found.append((key, shown(value), ABSENT if key_mistake(plain_key, tree) else ""))
            continue
        default = default_of(field)
        if default is WRONG:
            found.append((key, shown(value), NO_DEFAULT))
        elif plain(default) != value:
            found.append((key, shown(value), shown(plain(default))))
    return found


def shown(value: Any) -> str:
    """Returns a value in the form of config.yaml."""
    return (
        value
        if isinstance(value, str) and value
        else json.dumps(value, ensure_ascii=False, default=str)
    )


def configuration_section(record: RunRecord) -> str:
    """Returns the table of differences; keys set by the newest start's command come first and are marked."""
    if not record.config:
        return ""
    given = keys_given(record.newest_start.get("command"))
    rows = [
        [key, value, default, "command line" if key in given else "group or experiment"]
        for key, value, default in differences(record.config)
    ]
    rows.sort(key=lambda row: row[0] not in given)
    if not record.starts:
        rows = [[*row[:3], ""] for row in rows]
    if not rows:
        return paragraph("Every key has the schema's default.", "unit")
    about = f"{plural(len(rows), 'key')} of config.yaml whose value is not the schema's default; none: it has none."
    return paragraph(about, "unit") + key_table(["Key", "Value", "Default", "Set by"], rows)


def key_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table of keys and values, every cell set as code."""
    return html_table(
        [html.escape(name) for name in columns],
        [[_code(cell) for cell in row] for row in rows],
        words=True,
    )


def _code(text: str) -> str:
    # Lets a narrow screen break a key after each dot, underscore or slash.
    breaks = re.sub(r"([._/])", r"\1<wbr>", html.escape(text))
    return f"<code>{breaks}</code>" if text else ""


def keys_given(command: object) -> set[str]:
    """Returns the keys set by the arguments KEY=VALUE and +KEY=VALUE of a command."""
    arguments = command if isinstance(command, list) else []
    pairs = [str(argument).partition("=") for argument in arguments]
    return {key.lstrip("+") for key, sign, _ in pairs if sign}


def differing(configs: Sequence[Row]) -> list[list[str]]:
    """Returns [key, value in the first, value in the second, ...] of every key that differs; run_name left out."""
    flats = [dict(flat(today(config))) for config in configs]
    keys = dict.fromkeys(key for values in flats for key in values if key != "run_name")
    rows = [[key, *("" if key not in v else shown(v[key]) for v in flats)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]
