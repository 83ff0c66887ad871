"""What a part of the check hands back: a table for people, numbers for the record, failures."""

from dataclasses import dataclass, field
from typing import Any

SHOWN_FAILURES = 20


@dataclass
class Outcome:
    """One part's findings. Rows are already text; `numbers` holds everything that was measured."""

    title: str
    header: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = field(default_factory=list)
    # Sentences below the table: what was left out and why, what a column means.
    notes: list[str] = field(default_factory=list)
    # One line each, naming the row and the rule it breaks; any one makes the exit status 1.
    failures: list[str] = field(default_factory=list)
    numbers: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def expect(self, holds: bool, otherwise: str) -> None:
        """Note a failure unless `holds`. Comparisons with NaN do not hold, so NaN fails."""
        if not holds:
            self.failures.append(otherwise)

    def markdown(self) -> str:
        """Heading, table, notes, failures."""
        lines = [f"### {self.title}", ""]
        if self.rows:
            lines.append(f"| {' | '.join(self.header)} |")
            lines.append("|" + "|".join(" --- " for _ in self.header) + "|")
            lines += [f"| {' | '.join(row)} |" for row in self.rows]
            lines.append("")
        lines += [f"- {note}" for note in self.notes]
        lines += [f"- FAILED: {failure}" for failure in self.failures[:SHOWN_FAILURES]]
        left = len(self.failures) - SHOWN_FAILURES
        if left > 0:
            lines.append(f"- FAILED: {left} more of the kind; the record has them all")
        return "\n".join(lines).rstrip() + "\n"
