"""The options of data.prepare."""

import os
from dataclasses import dataclass

from data.formats.bad_records import ON_ERROR
from data.formats.field_options import FieldOptions

COMMIT_BYTES = 32 << 20
MOST_WORKERS = 1024
BOS = ("auto", "always", "never")


@dataclass(frozen=True)
class PrepareOptions:
    """The options of one job.

    With `heldout_output`, each document goes to exactly one of the two prefixes: to the held-out one if a hash of
    (seed, its number) is below `heldout_fraction`.
    """

    inputs: tuple[str, ...]
    output: str
    tokenizer: str
    workers: int = 1
    on_error: str = "fail"
    # The field or column that holds the text; absent: "text".
    text_field: str | None = None
    # One with a text before it, whose tokens have no labels; absent: none.
    unlabelled_field: str | None = None
    # One with the text as a list of segments, each with the bool `label`, in place of both; absent: none.
    segments_field: str | None = None
    # Whether documents begin with the tokenizer's BOS token; auto: if the tokenizer's own files have add_bos_token.
    bos: str = "auto"
    heldout_output: str = ""
    heldout_fraction: float = 0.0
    # Seed of the choice of held-out documents; absent: 0.
    seed: int | None = None
    # Whether to replace token files, or an unfinished job, of other inputs or options.
    overwrite: bool = False
    # Bytes of input between two commits: at most this work is lost by a kill.
    commit_bytes: int = COMMIT_BYTES
    show_progress: bool = True

    @property
    def given_fields(self) -> FieldOptions:
        """The options that name fields."""
        return FieldOptions(self.text_field, self.unlabelled_field, self.segments_field)

    @property
    def heldout_seed(self) -> int:
        """The seed of the choice of held-out documents."""
        return self.seed or 0

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The prefixes of the output."""
        return (self.output, self.heldout_output) if self.heldout_output else (self.output,)

    def problems(self) -> list[str]:
        """Returns every broken rule, one line each."""
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
        found += self.given_fields.problems()
        if self.commit_bytes < 1:
            found.append(f"commit_bytes={self.commit_bytes}: must be at least 1; omit it")
        if self.seed is not None and not self.heldout_output:
            found.append(
                f"seed={self.seed}: chooses held-out documents; add heldout_output, or omit it"
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
