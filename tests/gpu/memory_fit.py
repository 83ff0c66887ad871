"""What fits: the mode of keeping activations that a step needs, and the longest stream by two measured ones.

Peaks are straight lines in the tokens of the stream (weights and optimizer are their value at 0, layers and
logits their slope), so two measured lengths give the line and the line gives the longest stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model.config import ModelConfig
from parallel.costs.held import (
    compiled_layer_activations,
    head_memory,
    layer_activations,
    logits_chunk,
    stage_activations,
)
from parallel.costs.received import over_layers, whole_model

# Least to most recomputation.
MODES = ("everything", "attention", "input", "input_on_cpu", "tiles")
# Logits of one chunk in float32 (`model/logits.py`), and what works on them.
_CHUNK_BYTES, _CHUNKS_ALIVE = 1 << 30, 4
# Of the device: the rest is for the context, workspaces and fragments.
USABLE = 0.93


@dataclass(frozen=True)
class Line:
    """bytes = base + slope * tokens."""

    base: float
    slope: float

    @classmethod
    def through(cls, first: tuple[int, float], second: tuple[int, float]) -> "Line":
        """The line through two points (tokens, bytes) with different tokens."""
        (tokens, held), (more_tokens, held_more) = first, second
        slope = (held_more - held) / (more_tokens - tokens)
        return cls(held - slope * tokens, slope)

    def tokens_within(self, limit: float) -> float:
        """The most tokens whose bytes are at most `limit`; infinite where bytes do not grow."""
        if self.slope <= 0:
            return float("inf") if self.base <= limit else 0.0
        return max(0.0, (limit - self.base) / self.slope)


@dataclass(frozen=True)
class Kept:
    """What layers keep for the backward (`Transformer.keep_for_backward`). layers: of so many; None: all."""

    mode: str
    layers: int | None = None

    def __str__(self) -> str:
        return self.mode if self.layers is None else f"{self.mode} in {self.layers} layers"


def step_bytes(
    config: ModelConfig, tokens: int, kept: Kept, *, state_bytes: float, compiled: bool
) -> float:
    """About what a bfloat16 step over `tokens` holds at its peak. state_bytes: without a stream."""
    stage = whole_model(config)
    of_layer = compiled_layer_activations if compiled else layer_activations
    layer = max(over_layers(stage, lambda spec: of_layer(stage, spec, tokens)))
    held = stage_activations(
        stage,
        tokens,
        keep_for_backward=kept.mode,
        recompute_layers=kept.layers,
        compiled=compiled,
    )
    # The layer whose gradients are being made holds its activations, recomputed or not, and their gradients.
    working = layer if kept.mode == "everything" else 2 * layer
    rows = min(tokens, _CHUNK_BYTES // (config.vocab_size * stage.wide))
    head = head_memory(stage, tokens) + _CHUNKS_ALIVE * logits_chunk(stage, rows=rows)
    return state_bytes + held + working + head


def keeps_to_try(
    config: ModelConfig,
    tokens: int,
    *,
    state_bytes: float,
    memory_bytes: float,
    compiled: bool = False,
) -> Sequence[Kept]:
    """The first that should fit, least recomputation first, and those after it in case it does not."""
    some = [Kept("attention", count) for count in range(1, config.num_layers)]
    found = [Kept("everything"), *some, *map(Kept, MODES[1:])]
    limit = USABLE * memory_bytes
    fits = [
        index
        for index, kept in enumerate(found)
        if step_bytes(config, tokens, kept, state_bytes=state_bytes, compiled=compiled) <= limit
    ]
    first = fits[0] if fits else len(found) - 1
    # A failed attempt is dear: the next one is a good step away.
    after = found[first + max(2, config.num_layers // 6) :: max(2, config.num_layers // 6)]
    return [found[first], *(kept for kept in after if kept.layers), *_whole(found[first + 1 :])]


def _whole(found: Sequence[Kept]) -> list[Kept]:
    return [kept for kept in found if kept.layers is None]
