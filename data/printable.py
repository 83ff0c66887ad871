"""Makes text of unknown origin safe for one line of an error message, and writes results to standard output."""

import os
import sys

# Limit of one line: longer text does not help, and may come from an untrusted file.
MOST_CHARACTERS = 600
MOST_MISTAKES = 40


class Mistakes(ValueError):
    """Several mistakes of a user, one line each. way_out: what to do about all of them."""

    def __init__(self, *lines: str, way_out: str = "") -> None:
        super().__init__(*lines)
        self.lines = lines
        self.way_out = f" ({way_out})" if way_out else ""

    def __str__(self) -> str:
        return "; ".join(self.lines) + self.way_out


def one_line(text: str) -> str:
    """`text` as one line for any terminal: escapes characters that cannot be printed, shortens long text."""
    half = MOST_CHARACTERS // 2
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:half]} ... {text[-half:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def told(command: str, error: Exception) -> str:
    """The text that a command prints about an error: one line, or one line for each of several `Mistakes`."""
    if not isinstance(error, Mistakes) or len(error.lines) == 1:
        return f"{command}: {one_line(str(error))}\n"
    lines = [f"{command}: {len(error.lines)} mistakes{error.way_out}:"]
    lines += [f"  {one_line(line)}" for line in error.lines[:MOST_MISTAKES]]
    if len(error.lines) > MOST_MISTAKES:
        lines.append(f"  and {len(error.lines) - MOST_MISTAKES} more")
    return "\n".join(lines) + "\n"


def print_result(text: str) -> str:
    """Write `text` to standard output, whatever its encoding; returns why that failed, "" if it did not.

    A reader that has closed the pipe is no failure.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer would be written again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            return f"the output cannot be written ({error.strerror})"
    return ""
