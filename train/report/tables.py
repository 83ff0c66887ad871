"""Tables of the page. On a narrow screen a table scrolls inside its frame."""

import html
from collections.abc import Mapping, Sequence

from train.report.units import NOTHING


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: bool = False) -> str:
    """Returns a framed table of plain text; leaves out empty columns and prints a dash in an empty cell.

    The first column names the rows. words: columns hold text, not numbers, and are left-aligned.
    """
    escaped = [[html.escape(cell) for cell in row] for row in rows]
    return html_table([html.escape(name) for name in columns], escaped, words=words)


def html_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: bool = False
) -> str:
    """Returns the same table from cells that are already HTML."""
    kept = [i for i in range(len(columns)) if not i or any(row[i] for row in rows)]
    head = "".join(f"<th scope=col>{columns[i]}</th>" for i in kept)
    body = ""
    for row in rows:
        cells = "".join(f"<td>{row[i] or NOTHING}</td>" for i in kept[1:])
        body += f"<tr><th scope=row>{row[0]}</th>{cells}</tr>"
    kind = "words" if words else "numbers"
    frame = "scroll" if len(kept) > 4 or words else "scroll small"
    return (
        f"<div class='{frame}' tabindex=0><table class={kind}><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def facts(pairs: Mapping[str, str]) -> str:
    """Returns a list of names and values; leaves out a pair without a value."""
    items = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in pairs.items()
        if value
    )
    return f"<dl>{items}</dl>" if items else ""


def paragraph(text: str, kind: str = "") -> str:
    """Returns a paragraph of plain text; "" if the text is empty."""
    return f'<p class="{kind}">{html.escape(text)}</p>' if text else ""
