"""Settings of the evaluations inside training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Le

from data.generated.tasks import GeneratedConfig
from train.configuration.long_context_settings import (
    LongPerplexityForm,
    WindowedLongPerplexity,
)
from train.configuration.prompt_settings import PromptTaskConfig


@dataclass
class AccuracyConfig:
    """Share of the labelled tokens of generated documents that the model predicts, at lengths of one's own."""

    # Lengths in tokens of the documents that are scored, also beyond the training length; empty: no accuracy.
    lengths: list[Annotated[int, Ge(3), Le(2**31 - 1)]] = field(default_factory=list)
    # Generated source whose settings the documents have, but for their length; empty: the first with held-out
    # documents.
    source: str = ""
    # Held-out documents of each length; the first ones of the source.
    documents: Annotated[int, Ge(1), Le(2**24)] = 100
    # How many of these documents are also decoded greedily, which takes up to one forward for each token; 0: none.
    greedy_documents: Annotated[int, Ge(0), Le(2**24)] = 0
    # Places of a document, in tokens, that a bucket of the result holds; 0: buckets end at powers of two.
    bucket_tokens: Annotated[int, Ge(0), Le(2**31 - 1)] = 0

    def source_of(self, generated: Mapping[str, GeneratedConfig]) -> str:
        """Returns the name of the source; empty without a generated source that has held-out documents."""
        return self.source or next((name for name, one in generated.items() if one.heldout), "")


@dataclass
class EvaluationConfig:
    """Held-out loss by position in the document, accuracy, long-context tasks, and LongPPL."""

    # Whether to evaluate the model, at the end of every stage and every evaluation.every_steps.
    enabled: bool = True
    # Most held-out tokens scored in one evaluation; at least one sequence is scored.
    max_tokens: Annotated[int, Ge(1)] = 500_000
    # Optimizer steps between two evaluations inside a stage; 0: only at the end of the stage.
    every_steps: Annotated[int, Ge(0)] = 0
    # Training tokens from which the unigram and bigram baselines (yardsticks) are counted, in the
    # stage's mix of sources.
    yardstick_tokens: Annotated[int, Ge(1)] = 20_000_000
    # Accuracy on generated documents of given lengths.
    accuracy: AccuracyConfig = field(default_factory=AccuracyConfig)
    # Long-context tasks by name.
    tasks: dict[str, PromptTaskConfig] = field(default_factory=dict)
    # LongPPL on held-out documents: a form (windowed, official), or for example {form: official, context_tokens: 4096};
    # null: no LongPPL.
    long_perplexity: LongPerplexityForm | None = None

    @property
    def keys_at_most(self) -> tuple[int, ...]:
        """The limits of keys with which streams of an evaluation have further forwards: see `AtStep`."""
        wanted = self.long_perplexity
        return (wanted.context_tokens,) if isinstance(wanted, WindowedLongPerplexity) else ()
