"""Settings of LongPPL and LongCE, which compare the losses of tokens with a long and with a short context."""

from dataclasses import dataclass
from math import inf
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt


@dataclass
class LongPerplexityConfig:
    """LongPPL: perplexity on the tokens whose loss falls when the model sees more than a short context."""

    # Short context in tokens.
    context_tokens: Annotated[int, Ge(1), Le(2**31 - 1)] = 4096
    # Length in tokens at which held-out documents are scored; 0: the stage's sequence_length.
    length: Annotated[int, Ge(0), Le(2**31 - 1)] = 0
    # A token is a key token if the long context lowers its loss by more than this many nats, and beta holds.
    alpha: Annotated[float, Ge(0), Lt(inf)] = 2.0
    # A key token's loss with the long context is below this many nats.
    beta: Annotated[float, Gt(0), Lt(inf)] = 2.0
    # Most held-out tokens scored in one evaluation; at least one document is scored.
    max_tokens: Annotated[int, Ge(1)] = 250_000


@dataclass
class WindowedLongPerplexity(LongPerplexityConfig):
    """The loss with a short context comes from one further forward, in which no layer sees more than so many keys."""

    form: Literal["windowed"] = "windowed"


@dataclass
class OfficialLongPerplexity(LongPerplexityConfig):
    """The loss with a short context comes from forwards of pieces of the document, as in the authors' code."""

    form: Literal["official"] = "official"
    # Tokens by which the short context slides: the last so many tokens of a piece are scored with it.
    step_tokens: Annotated[int, Ge(1), Le(2**31 - 1)] = 1024


LongPerplexityForm = WindowedLongPerplexity | OfficialLongPerplexity


@dataclass
class LongCeConfig:
    """LongCE: the loss of a token weighs min(exp(l_short - l_long), cap), by its losses with both contexts."""

    # Short context in tokens: in a forward before each step's own one, no layer sees more keys.
    window_tokens: Annotated[int, Ge(1), Le(2**31 - 1)] = 4096
    # Largest weight of a token.
    cap: Annotated[float, Ge(1), Lt(inf)] = 5.0
