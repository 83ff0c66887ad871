"""The longest stream that one GPU trains: ever longer ones are run, and the longest follows from the last two.

Layers keep their input in host memory (`input_on_cpu`), and let feed-forwards work on tiles of tokens too
(`tiles`); the loss works in chunks. Bytes on the device and on the host are straight lines in the tokens, and either
ends the stream:

    tokens = min((device - on top - base) / slope,   host tokens)

`on top` is what the measured forward and backward (bfloat16 weights and gradients) lack of a training rank:
masters, moments and float32 gradients, whole for 1.1B, and for 8B those of one ZeRO-1 rank of 8.
"""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from machine import GIB, Machine
from memory_fit import USABLE, Line
from outcome import Outcome
from plain_stack import PlainStack, stream
from presets import preset

from data.loader import GlobalBatch
from model.config import ModelConfig
from model.flops import parameter_count, training_flops
from parallel.costs.held import model_memory
from parallel.engine.optimizers import OPTIMIZERS

MODES = ("tiles", "input_on_cpu")
ELEMENT = 2
# Of the host's memory: the rest is its own.
HOST_SHARE = 0.9
# FLOP/s of model operations with recomputation beside them, to tell what there is time for.
EXPECTED_FLOPS = 280e12
BUCKET = 50_000_000
# What this stands beside: ALST (arXiv 2506.13996), the table in ArcticTraining's projects/sequence-parallelism.
PUBLISHED = (
    "ALST, an 8B Llama on one H200: 300,000 tokens with the loss in chunks, 650,000 with activations in host "
    "memory, 1.2 million with tiled feed-forwards too"
)


@dataclass(frozen=True)
class Case:
    """A model, the lengths that are run while there is time, and over how many ranks ZeRO-1 shards."""

    model: str
    lengths: tuple[int, ...]
    ranks: int


# Long enough for tokens to outweigh a chunk of the loss, which short streams peak at.
CASES = (Case("8b", (16_384, 32_768, 65_536), 8), Case("1b", (65_536, 131_072, 262_144), 1))


@dataclass(frozen=True)
class Prediction:
    """The longest stream by each limit, in tokens."""

    device: float
    host: float

    @property
    def tokens(self) -> float:
        """The smaller of the two."""
        return min(self.device, self.host)


def host_tokens(config: ModelConfig, host_bytes: float) -> float:
    """The most tokens whose layer inputs fit into `host_bytes`."""
    return host_bytes / (config.num_layers * config.hidden_size * ELEMENT)


def on_top_bytes(config: ModelConfig, ranks: int) -> int:
    """What a ZeRO-1 rank holds beside bfloat16 weights and gradients."""
    count = parameter_count(config)
    memory = model_memory(
        (count, count),
        optimizer=OPTIMIZERS["adamw"],
        ranks=ranks,
        zero_stage=1,
        element=ELEMENT,
        bucket_elements=BUCKET,
    )
    return memory.total - 2 * ELEMENT * count


def check_longest(machine: Machine) -> Outcome:
    """Every model and mode there is time for."""
    outcome = Outcome(
        "The longest stream one GPU trains, hybrid, bfloat16, one document",
        (
            "model",
            "layers keep",
            "KiB a token on the device",
            "on the host",
            "GiB without tokens",
            "longest by device",
            "by host",
            "ran, tokens",
            "tokens/s",
            "peak GiB",
        ),
    )
    # Now: what was pinned once stays with the process.
    host_bytes = HOST_SHARE * machine.host_bytes_free
    for case in CASES:
        config = preset(case.model, rehearsal=machine.rehearsal)
        stack = PlainStack(config, machine.device)
        try:
            for mode in MODES:
                _add_row(outcome, stack, case, mode, host_bytes, machine)
                machine.record(outcome)
        finally:
            stack.close()
            del stack
            machine.forget()
    outcome.notes += [
        f"Forward and backward with bfloat16 weights and gradients; what a training rank holds on top "
        f"(GiB: {_on_top(machine)}) is taken off before the longest is told. The host is this GPU's alone. Device: "
        f"{USABLE:.0%} of {machine.memory_bytes / GIB:.0f} GiB; host: {HOST_SHARE:.0%} of the "
        f"{machine.host_bytes / GIB:.0f} GiB. `ran` is real, longer ones are on the line of the last two that ran.",
        f"Published: {PUBLISHED}.",
    ]
    return outcome


def _on_top(machine: Machine) -> str:
    found = []
    for case in CASES:
        on_top = on_top_bytes(preset(case.model, rehearsal=machine.rehearsal), case.ranks)
        found.append(f"{case.model} as 1 of {case.ranks} under ZeRO-1 {on_top / GIB:.1f}")
    return ", ".join(found)


def _add_row(
    outcome: Outcome,
    stack: PlainStack,
    case: Case,
    mode: str,
    host_bytes: float,
    machine: Machine,
) -> None:
    number: dict[str, Any] = {"case": asdict(case), "mode": mode}
    try:
        cells, numbers = _measure(stack, case, mode, host_bytes, machine)
    except torch.OutOfMemoryError:
        cells, numbers = ["out of memory"], {"not_measured": "out of memory"}
    except RuntimeError as error:
        told = (str(error).splitlines() or [""])[0]
        outcome.failures.append(f"{case.model}, {mode}: {told}")
        cells, numbers = [told[:80]], {"not_measured": told}
    missing = len(outcome.header) - 2 - len(cells)
    outcome.rows.append((case.model, mode, *cells, *["-"] * missing))
    outcome.numbers.append(number | numbers)


def _measure(
    stack: PlainStack, case: Case, mode: str, host_bytes: float, machine: Machine
) -> tuple[list[str], dict[str, Any]]:
    config = stack.model.config
    stack.model.keep_for_backward(mode)
    scale = 1_024 if machine.rehearsal else 1
    if _seconds(config, sum(case.lengths[:2]) // scale) > machine.seconds_left:
        return ["no time left"], {"not_measured": "no time left"}
    runs: list[tuple[int, int, float]] = []
    # The other way is there to be compared with: two lengths do.
    for tokens in case.lengths if mode == MODES[0] else case.lengths[:2]:
        if len(runs) >= 2 and _seconds(config, tokens // scale) > machine.seconds_left:
            break
        runs.append((tokens // scale, *_pass(stack, tokens // scale, machine)))
    points = [(tokens, float(peak)) for tokens, peak, _ in runs]
    line = Line.through(*points[-2:])
    limit = USABLE * machine.memory_bytes - on_top_bytes(config, case.ranks)
    longest = Prediction(line.tokens_within(limit), host_tokens(config, host_bytes))
    per_token = config.num_layers * config.hidden_size * ELEMENT
    tokens, peak, seconds = runs[-1]
    cells = [
        f"{line.slope / 1024:.0f}",
        f"{per_token / 1024:.0f}",
        f"{line.base / GIB:.1f}",
        _tokens(longest.device),
        _tokens(longest.host),
        f"{tokens:,}",
        f"{tokens / seconds:,.0f}",
        f"{peak / GIB:.1f}",
    ]
    numbers: dict[str, Any] = {"runs": runs, "line": asdict(line), "host": per_token}
    numbers |= {"longest": {k: v if v < math.inf else None for k, v in asdict(longest).items()}}
    return cells, numbers


def _pass(stack: PlainStack, tokens: int, machine: Machine) -> tuple[int, float]:
    """Peak bytes and seconds of one forward and backward; no optimizer step."""
    batch: GlobalBatch = stream((tokens,), stack.model.config.vocab_size)
    machine.forget()
    machine.wait()
    started = time.perf_counter()
    try:
        loss = stack.backward(batch)
        machine.wait()
    finally:
        stack.forget_gradients()
    if not math.isfinite(float(loss)):
        raise RuntimeError(f"loss {float(loss)} over {tokens:,} tokens")
    return machine.peak_bytes(), time.perf_counter() - started


def _seconds(config: ModelConfig, tokens: int) -> float:
    return training_flops(config, (tokens,)) / EXPECTED_FLOPS


def _tokens(count: float) -> str:
    return "-" if count == math.inf else f"{count:,.0f}"
