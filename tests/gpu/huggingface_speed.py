"""The same training step in Hugging Face transformers: Cohere2ForCausalLM beside our model of 1.1B.

Both sides hold the same bfloat16 weights, read the same one document and step under the same
`torch.optim.AdamW(fused)` (bfloat16 moments too). Their loss is the plain one of transformers. Losses are
compared before anything is timed, then steps alternate, ours and theirs. Both live on the device together;
what the other side keeps there between its steps is taken off the peak.
"""

import importlib.util
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from machine import GIB, Machine
from memory_fit import keeps_to_try
from outcome import Outcome
from plain_stack import LEARNING_RATE, PlainStack, stream
from presets import ROPE_BASE, preset
from torch import Tensor, nn

from data.loader import GlobalBatch
from model.config import ModelConfig
from model.flops import parameter_count
from model.regions import compile_regions

LENGTHS = (8_192, 32_768)
# What transformers calls it -> what must be importable; "" always is.
ATTENTION = {
    "flash_attention_3": "flash_attn_interface",
    "flash_attention_2": "flash_attn",
    "flash_attention_4": "flash_attn.cute",
    "sdpa": "",
    "flex_attention": "",
}
# Compiled when first called, which nothing can interrupt: only with so many seconds left.
COMPILES = {"flex_attention": 35.0}
COMPILE_SECONDS = 15.0
NO_CPU_BACKWARD = ("flex_attention",)
TIMED_STEPS = 3
# Two bfloat16 models that round at other places: their mean losses part by less.
CLOSE = 2e-2
# Bytes a parameter that a side keeps between steps: weights and two moments.
_RESIDENT = 6


@dataclass
class Side:
    """One of the two, and what was measured of it."""

    name: str
    step: Callable[[GlobalBatch], float]
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0


class TheirStack:
    """Their model with its optimizer."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model.train()
        self._adam = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

    def step(self, batch: GlobalBatch) -> float:
        """As `PlainStack.step`."""
        loss = self.loss(batch)
        loss.backward()
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        return loss.item()

    def loss(self, batch: GlobalBatch) -> Tensor:
        """Mean loss of the batch's one document."""
        (packed,) = batch.micro_batches
        tokens_1T = packed.tokens_T.to(self.model.device)[None]
        loss: Tensor = self.model(input_ids=tokens_1T, labels=tokens_1T, use_cache=False).loss
        return loss

    def recover(self) -> None:
        """Forget what a failed step left."""
        self._adam.zero_grad(set_to_none=True)

    def close(self) -> None:
        """Give the memory back."""
        self.recover()
        self._adam.state.clear()
        for parameter in self.model.parameters():
            parameter.data = parameter.data.new_empty(0)


def check_huggingface(machine: Machine) -> Outcome:
    """Losses, then alternating steps, at every length there is time for."""
    outcome = Outcome(
        "The same step in Hugging Face transformers (Cohere2ForCausalLM), hybrid, bfloat16",
        (
            "tokens",
            "side",
            "layers keep",
            "tokens/s",
            "peak GiB",
            "ours / theirs",
            "peak of theirs",
        ),
    )
    os.environ.setdefault(
        "HF_HUB_OFFLINE", "1"
    )  # nothing is fetched in the middle of a measurement
    if importlib.util.find_spec("transformers") is None:
        outcome.notes.append("transformers is not installed: nothing to compare with.")
        return outcome
    config = preset("1b", rehearsal=machine.rehearsal)
    ours = PlainStack(config, machine.device)
    theirs = _their_model(ours, config, machine)
    try:
        lengths = [
            n // (128 if machine.rehearsal else 1)
            for n in LENGTHS[: 1 if machine.rehearsal else None]
        ]
        batches = [stream((length,), config.vocab_size) for length in lengths]
        attention = _choose_attention(outcome, theirs, batches[0], machine)
        _compare_losses(outcome, ours, theirs, batches[0])
        for batch in batches:
            try:
                _time_length(outcome, (ours, theirs), batch, attention, machine)
            except RuntimeError as error:  # out of memory is one too
                why = (str(error).splitlines() or [""])[0]
                outcome.failures.append(f"{batch.valid_tokens + 1:,} tokens: {why}")
                theirs.recover()
            machine.record(outcome)
        _time_compiled(outcome, (ours, theirs), batches[-1], attention, machine)
    finally:
        ours.close()
        theirs.close()
        machine.forget()
    outcome.notes.append(
        "Both: one document, the same weights and tokens, torch AdamW(fused) on bfloat16 weights; theirs with "
        "their plain loss. Medians of alternating steps; peak less what the other side keeps between steps."
    )
    return outcome


def _their_model(ours: PlainStack, config: ModelConfig, machine: Machine) -> TheirStack:
    from tests.benchmark.cohere2 import copy_weights, hf_model  # transformers may be absent

    with torch.device(machine.device):  # drawn there at once: on a CPU it takes a minute
        model = hf_model(config, torch.bfloat16, "sdpa", rope_base=ROPE_BASE)
    model.to(machine.device)
    copy_weights(ours.model, model)
    return TheirStack(model)


def _importable(package: str) -> bool:
    try:
        return not package or importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _choose_attention(
    outcome: Outcome, theirs: TheirStack, batch: GlobalBatch, machine: Machine
) -> str:
    """Try every attention that is there for two steps; the fastest is set."""
    found: dict[str, float] = {}
    told: list[str] = []
    for name, package in ATTENTION.items():
        if not _importable(package):
            told.append(f"{name}: no {package}")
        elif machine.rehearsal and name in NO_CPU_BACKWARD:
            told.append(f"{name}: not on a CPU")
        elif machine.seconds_left < COMPILES.get(name, 0.0):
            told.append(f"{name}: no time left to compile it")
        else:
            try:
                theirs.model.set_attn_implementation(name)
                theirs.step(batch)
                found[name] = _timed(theirs.step, batch, machine)
                told.append(f"{name}: {1e3 * found[name]:.0f} ms")
            except Exception as error:  # theirs; the others may work
                theirs.recover()
                told.append(f"{name}: {(str(error).splitlines() or [''])[0][:120]}")
            machine.forget()
    if not found:
        raise RuntimeError(f"no attention of theirs works here: {'; '.join(told)}")
    best = min(found, key=lambda name: found[name])
    theirs.model.set_attn_implementation(best)
    outcome.notes.append(f"Their attention, a step each: {'; '.join(told)}.")
    return best


def _compare_losses(
    outcome: Outcome, ours: PlainStack, theirs: TheirStack, batch: GlobalBatch
) -> None:
    """Their attention was tried with steps: both sides start from our weights again."""
    from tests.benchmark.cohere2 import copy_weights

    copy_weights(ours.model, theirs.model)
    (packed,) = batch.micro_batches
    with torch.no_grad():
        expected = float(theirs.loss(batch))
    ours.model.keep_for_backward("input")
    mine = ours.step(batch)
    off = abs(mine - expected) / expected
    outcome.expect(off <= CLOSE, f"loss {mine:.4f}, theirs {expected:.4f}: {off:.1e} apart")
    outcome.numbers.append({"loss": mine, "their_loss": expected})
    outcome.notes.append(
        f"Losses of the same {len(packed.tokens_T):,} tokens before timing: ours {mine:.4f}, theirs "
        f"{expected:.4f} ({off:.1e} apart, allowed {CLOSE:g})."
    )


def _time_length(
    outcome: Outcome,
    stacks: tuple[PlainStack, TheirStack],
    batch: GlobalBatch,
    attention: str,
    machine: Machine,
) -> None:
    ours, theirs = stacks
    tokens = batch.valid_tokens + 1
    if machine.seconds_left <= 0:
        outcome.rows.append((f"{tokens:,}", "no time left", *["-"] * 5))
        return
    mode = _our_mode(ours, tokens, machine)
    kept = _their_mode(theirs, batch, machine)
    sides = [Side("Ropewalk", ours.step)]
    if kept:
        sides.append(Side(f"transformers, {attention}", theirs.step))
    # Either side has weights and two moments there while the other steps.
    _alternate(sides, batch, _RESIDENT * parameter_count(ours.model.config), machine)
    mine, their = sides[0], sides[1] if kept else None
    faster = f"{_median(their) / _median(mine):.2f} x" if their else "-"
    smaller = f"{mine.peak_bytes / their.peak_bytes:.0%}" if their and their.peak_bytes else "-"
    for side, what in zip(sides, (mode, kept), strict=False):
        first = side is mine
        outcome.rows.append(
            (
                f"{tokens:,}",
                side.name,
                what,
                f"{tokens / _median(side):,.0f}",
                f"{side.peak_bytes / GIB:.1f}",
                faster if first else "",
                smaller if first else "",
            )
        )
        outcome.numbers.append(
            {
                "tokens": tokens,
                "side": side.name,
                "kept": what,
                "seconds": side.seconds,
                "tokens_per_second": tokens / _median(side),
                "peak_bytes": side.peak_bytes,
            }
        )
    if not kept:
        row = (f"{tokens:,}", f"transformers, {attention}", "input", "out of memory", *["-"] * 3)
        outcome.rows.append(row)
        outcome.numbers.append({"tokens": tokens, "side": "transformers", "out_of_memory": True})


def _our_mode(ours: PlainStack, tokens: int, machine: Machine, *, compiled: bool = False) -> str:
    """The least recomputation that fits beside the other side's weights and moments."""
    config = ours.model.config
    state = (ours.bytes_per_parameter + _RESIDENT) * parameter_count(config)
    (kept, *_) = keeps_to_try(
        config, tokens, state_bytes=state, memory_bytes=machine.memory_bytes, compiled=compiled
    )
    ours.model.keep_for_backward(kept.mode, kept.layers)
    return str(kept)


def _their_mode(theirs: TheirStack, batch: GlobalBatch, machine: Machine) -> str:
    """What their layers keep so that a step fits; empty: nothing makes it fit. Warms them up too."""
    model = theirs.model
    for kept, switch in (
        ("everything", model.gradient_checkpointing_disable),
        ("input", model.gradient_checkpointing_enable),
    ):
        switch()
        try:
            theirs.step(batch)
            return kept
        except torch.OutOfMemoryError:
            theirs.recover()
        machine.forget()
    return ""


def _alternate(sides: Sequence[Side], batch: GlobalBatch, others: int, machine: Machine) -> None:
    for side in sides:
        side.step(batch)
    for turn in range(TIMED_STEPS):
        if turn and machine.seconds_left <= 0:
            return
        for side in sides:
            machine.begin_peak()
            side.seconds.append(_timed(side.step, batch, machine))
            side.peak_bytes = max(side.peak_bytes, machine.peak_bytes() - others)


def _timed(step: Callable[[GlobalBatch], float], batch: GlobalBatch, machine: Machine) -> float:
    machine.wait()
    started = time.perf_counter()
    loss = step(batch)
    machine.wait()
    if not math.isfinite(loss):
        raise RuntimeError(f"loss {loss}")
    return time.perf_counter() - started


def _median(side: Side) -> float:
    return statistics.median(side.seconds)


def _time_compiled(
    outcome: Outcome,
    stacks: tuple[PlainStack, TheirStack],
    batch: GlobalBatch,
    attention: str,
    machine: Machine,
) -> None:
    """Both compiled: our regions, and their layers one by one (whole, twenty layers take minutes)."""
    ours, theirs = stacks
    tokens = batch.valid_tokens + 1

    def compile_ours() -> str:
        compile_regions(ours.model)
        return _our_mode(ours, tokens, machine, compiled=True)

    def compile_theirs() -> str:
        for layer in theirs.model.model.layers:
            layer.compile()
        return "input" if theirs.model.is_gradient_checkpointing else "everything"

    for name, prepare, step in (
        ("Ropewalk, regions compiled", compile_ours, ours.step),
        (f"transformers, {attention}, layers compiled", compile_theirs, theirs.step),
    ):
        if machine.rehearsal or machine.seconds_left < COMPILE_SECONDS:
            outcome.notes.append(f"{name}: no time left.")
            continue
        try:
            kept = prepare()
            step(batch)
            step(batch)
            machine.begin_peak()
            seconds = statistics.median(_timed(step, batch, machine) for _ in range(TIMED_STEPS))
        except Exception as error:  # the compiler's are of many kinds
            outcome.notes.append(f"{name}: {(str(error).strip().splitlines() or [''])[0][:160]}")
            ours.forget_gradients()
            theirs.recover()
            continue
        peak = machine.peak_bytes() - _RESIDENT * parameter_count(ours.model.config)
        rate = tokens / seconds
        cells = (kept, f"{rate:,.0f}", f"{peak / GIB:.1f}", "", "")
        outcome.rows.append((f"{tokens:,}", name, *cells))
        outcome.numbers.append(
            {"tokens": tokens, "side": name, "tokens_per_second": rate, "peak_bytes": peak}
        )
        machine.record(outcome)
