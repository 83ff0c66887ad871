"""What data.prepare is asked to do."""

import os
from dataclasses import dataclass

from data.formats.bad_records import ON_ERROR

COMMIT_BYTES = 32 << 20
MOST_WORKERS = 1024
BOS = ("auto", "always", "never")


@dataclass(frozen=True)
class PrepareOptions:
    """What to prepare.

    With `heldout_output`, each document goes to exactly one of both prefixes: to the held-out one where a hash of
    (seed, its number) falls below `heldout_fraction`.
    """

    inputs: tuple[str, ...]
    output: str
    tokenizer: str
    workers: int = 1
    on_error: str = "fail"
    # The field or column that holds the text; absent: "text".
    text_field: str | None = None
    # Whether a document begins with the tokenizer's BOS token; auto: where the tokenizer's own files say so.
    bos: str = "auto"
    heldout_output: str = ""
    heldout_fraction: float = 0.0
    # Of the choice of held-out documents; absent: 0.
    seed: int | None = None
    # Whether token files of other inputs or options, or an unfinished job of theirs, may be replaced.
    overwrite: bool = False
    # Input between two commits: the work that a kill costs.
    commit_bytes: int = COMMIT_BYTES
    show_progress: bool = True

    @property
    def field_name(self) -> str:
        """The field or column that holds the text."""
        return "text" if self.text_field is None else self.text_field

    @property
    def heldout_seed(self) -> int:
        """What chooses the held-out documents."""
        return self.seed or 0

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The prefixes that are written."""
        return (self.output, self.heldout_output) if self.heldout_output else (self.output,)

    def problems(self) -> list[str]:
        """Every rule that is broken, one clear line each."""
        found = []
        if not 1 <= self.workers <= MOST_WORKERS:
            found.append(f"workers={self.workers}: must be from 1 to {MOST_WORKERS}; use 1")
        for prefix in self.prefixes:
            if prefix.endswith((os.sep, f"{os.sep}.", f"{os.sep}..")) or prefix in ("", ".", ".."):
                found.append(f"output={prefix}: is a folder; add what files in it begin with")
        for name, value, choices in (
            ("on_error", self.on_error, ON_ERROR),
            ("bos", self.bos, BOS),
        ):
            if value not in choices:
                found.append(f"{name}={value}: unknown; use {' or '.join(choices)}")
        if self.text_field == "":
            found.append("text_field=: is empty; name a field, or leave it away")
        if self.commit_bytes < 1:
            found.append(f"commit_bytes={self.commit_bytes}: must be at least 1; leave it away")
        if self.seed is not None and not self.heldout_output:
            found.append(
                f"seed={self.seed}: chooses held-out documents; add heldout_output, or leave it away"
            )
        if bool(self.heldout_output) != (self.heldout_fraction > 0):
            found.append(
                f"heldout_fraction={self.heldout_fraction}: goes together with heldout_output"
                f"={self.heldout_output!r}; give both or none"
            )
        if not 0 <= self.heldout_fraction < 1:
            found.append(f"heldout_fraction={self.heldout_fraction}: must be in [0, 1); use 0.02")
        if self.heldout_output and self.heldout_output == self.output:
            found.append(f"heldout_output={self.heldout_output}: is the output; use another prefix")
        return found
