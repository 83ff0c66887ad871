"""What sources and evaluations of text take from a run: its tokenizer, its end and BOS tokens, and its documents."""

from dataclasses import dataclass

from data.prompts.encoder import Encoder
from data.prompts.filler import Readable


@dataclass(frozen=True)
class TextOfRun:
    """The text of a run. bos_id: None without one. documents: what filler is taken from; None: the run has none."""

    encoder: Encoder
    eos_id: int
    bos_id: int | None
    documents: Readable | None = None

    @property
    def special(self) -> tuple[int, ...]:
        """The ids that no text has: end token and BOS."""
        return tuple(one for one in (self.eos_id, self.bos_id) if one is not None)

    @property
    def begin(self) -> tuple[int, ...]:
        """The ids before every document."""
        return () if self.bos_id is None else (self.bos_id,)
