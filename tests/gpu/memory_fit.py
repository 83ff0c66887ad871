"""What fits: the mode of keeping activations that a step needs, and the longest stream by two measured ones.

Peaks are straight lines in the tokens of the stream (weights and optimizer are their value at 0, layers and
logits their slope), so two measured lengths give the line and the line gives the longest stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model.config import ModelConfig
from parallel.costs import whole_model
from parallel.memory_costs import head_memory, layer_activations, logits_chunk, stage_activations

# Least to most recomputation.
MODES = ("everything", "attention", "input", "input_on_cpu", "tiles")
# Logits of one chunk in float32 (`model/loss.py`), and what works on them.
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


def step_bytes(config: ModelConfig, tokens: int, mode: str, *, state_bytes: float) -> float:
    """About what a bfloat16 step over `tokens` holds at its peak. state_bytes: without a stream."""
    stage = whole_model(config)
    layer = layer_activations(stage, tokens)
    kept = stage_activations(stage, tokens, keep_for_backward=mode)
    # The layer whose gradients are being made holds its activations, recomputed or not, and their gradients.
    working = layer if mode == "everything" else 2 * layer
    if mode == "tiles":
        working //= 2  # without what gate, up and their product take
    rows = min(tokens, _CHUNK_BYTES // (config.vocab_size * stage.wide))
    head = head_memory(stage, tokens) + _CHUNKS_ALIVE * logits_chunk(stage, rows=rows)
    return state_bytes + kept + working + head


def modes_to_try(
    config: ModelConfig, tokens: int, *, state_bytes: float, memory_bytes: float
) -> Sequence[str]:
    """The first mode that should fit, and those after it in case it does not."""
    for index, mode in enumerate(MODES):
        if step_bytes(config, tokens, mode, state_bytes=state_bytes) <= USABLE * memory_bytes:
            return MODES[index:]
    return MODES[-1:]
