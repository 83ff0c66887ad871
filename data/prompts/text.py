"""What sources and evaluations of text take from a run: its tokenizer and its documents."""

from dataclasses import dataclass

from data.prompts.encoder import Encoder
from data.prompts.filler import Readable


@dataclass(frozen=True)
class TextOfRun:
    """The encoder of a run's text, its documents, and the ids `special` (BOS, end token) that are left out of them."""

    encoder: Encoder
    documents: Readable
    special: tuple[int, ...]
