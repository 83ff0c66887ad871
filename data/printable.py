"""Text of unknown origin, made fit for a line of an error message."""

# Of one line: what is longer says no more, and may come from a file that somebody else made.
MOST_CHARACTERS = 600


def one_line(text: str) -> str:
    """`text` as one line for any terminal: what cannot be printed is escaped, a long middle left out."""
    half = MOST_CHARACTERS // 2
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:half]} ... {text[-half:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
