"""Text of unknown origin, made fit for a line of an error message."""

# Of one line: what is longer says no more, and may come from a file that somebody else made.
MOST_CHARACTERS = 600
MOST_MISTAKES = 40


class Mistakes(ValueError):
    """Several mistakes of a user, each one line of its own. way_out: of all of them together."""

    def __init__(self, *lines: str, way_out: str = "") -> None:
        super().__init__(*lines)
        self.lines = lines
        self.way_out = f" ({way_out})" if way_out else ""

    def __str__(self) -> str:
        return "; ".join(self.lines) + self.way_out


def one_line(text: str) -> str:
    """`text` as one line for any terminal: what cannot be printed is escaped, a long middle left out."""
    half = MOST_CHARACTERS // 2
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:half]} ... {text[-half:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def told(command: str, error: Exception) -> str:
    """What a command prints about a mistake: one line, or a line for each of several."""
    if not isinstance(error, Mistakes) or len(error.lines) == 1:
        return f"{command}: {one_line(str(error))}\n"
    lines = [f"{command}: {len(error.lines)} mistakes{error.way_out}:"]
    lines += [f"  {one_line(line)}" for line in error.lines[:MOST_MISTAKES]]
    if len(error.lines) > MOST_MISTAKES:
        lines.append(f"  and {len(error.lines) - MOST_MISTAKES} more")
    return "\n".join(lines) + "\n"
