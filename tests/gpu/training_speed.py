"""Training speed of models of 1.1B and 3.3B parameters, hybrid and full attention, at 8k, 32k and 128k.

Each row is a whole optimizer step of one micro-batch on one device, through the engine that a run uses
(`engine_stack.py`), or where DeepSpeed is absent through torch's AdamW (`plain_stack.py`; a note says so).
FLOPs are the model's (`model/flops.py`): windows and document borders counted, recomputation not.

Layers keep as much for the backward as fits. Hybrid and full attention share weights and optimizer, so a
model is built once. Rows are in order of value; what the time does not allow is a row that says so.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import torch
from kernel_times import Breakdown, Span, break_down, device_matmul_flops, longest, profiled
from machine import GIB, Machine
from memory_fit import Kept, keeps_to_try
from outcome import Outcome
from plain_stack import PlainStack, Stack, stream
from presets import adopt_recipe, preset

from data.loader import GlobalBatch
from model.config import ModelConfig
from model.flops import parameter_count, training_flops
from model.peak_flops import peak_flops
from model.regions import compile_regions

RECIPES = {"hybrid": "rnope_swa", "full": "full_rope"}
# Of this rate, to tell whether a row's time is left: what is reached, recomputation included.
EXPECTED_FLOPS = 480e12
BUILD_SECONDS, COMPILE_SECONDS = 4.0, 15.0
# A step longer than this is timed once, and under the profiler, whose cost is small beside it.
LONG_SECONDS = 3.0
TIMED_STEPS = 2
# A drawn model's loss is near the logarithm of the vocabulary at first; it falls while rows share their tokens.
NEAR = 3.0
_NO_TIME = "no time left"


@dataclass(frozen=True)
class Row:
    """One shape to be timed: micro-batches of `rows` rows of `length` tokens. compiled: by `compile_regions`."""

    model: str
    attention: str
    length: int
    rows: int = 1
    micro_batches: int = 1
    compiled: bool = True

    def __str__(self) -> str:
        return f"{self.micro_batches} x {self.rows} x {self.length:,}"

    def config(self, machine: Machine) -> ModelConfig:
        """The model."""
        return preset(self.model, RECIPES[self.attention], rehearsal=machine.rehearsal)

    def lengths(self, machine: Machine) -> tuple[int, ...]:
        """Documents of a micro-batch's stream, one a row."""
        return (self.length // (512 if machine.rehearsal else 1),) * self.rows

    def flops(self, machine: Machine) -> int:
        """Of the model, in a step."""
        return self.micro_batches * training_flops(self.config(machine), self.lengths(machine))


def _rows(model: str, length: int, rows: int = 1, micro_batches: int = 1) -> list[Row]:
    return [Row(model, attention, length, rows, micro_batches) for attention in RECIPES]


# By value; hybrid before full of the same shape, which warms it up. A stream of 32,768 tokens compiles once, whatever
# its rows; one of 131,072 again.
ROWS = (
    Row("1b", "hybrid", 8_192, 4, 2, compiled=False),
    *_rows("1b", 8_192, 4, 2),
    *_rows("1b", 32_768, 1, 2),
    *_rows("1b", 131_072),
    *_rows("3b", 8_192, 4, 2),
    *_rows("3b", 32_768, 1, 2),
    *_rows("3b", 131_072),
)
# A change of recipe, of length and of model.
REHEARSED = (*ROWS[1:4], ROWS[7])


@dataclass(frozen=True)
class Measured:
    """A row's numbers."""

    compiled: bool
    kept: str
    seconds: float
    loss: float
    peak_bytes: int
    breakdown: Breakdown | None
    kernels: dict[str, float]


def open_stacks(machine: Machine) -> tuple[Callable[[ModelConfig], Stack], Callable[[], None], str]:
    """How to build a stack, how to end, and why it is not DeepSpeed's (empty: it is)."""
    try:
        engine = import_module("engine_stack")
        mesh = engine.open_world(machine.device)
    except Exception as error:  # absent, or the host's network is odd: the model is what matters
        return (lambda c: PlainStack(c, machine.device)), (lambda: None), _one_line(error)
    return (lambda config: engine.EngineStack(config, mesh)), engine.close_world, ""


class Bench:
    """Holds one model with its optimizer, and times rows on it."""

    def __init__(self, machine: Machine, build: Callable[[ModelConfig], Stack]) -> None:
        self._machine = machine
        self._build = build
        self._stack: Stack | None = None
        # Name of the model that is built, whether it is compiled, and the lengths of stream it was compiled for.
        self._model, self._compiled = "", False
        self._compiled_tokens: set[int] = set()
        self._warm: tuple[str, int, Kept] | None = None
        # Why nothing is compiled here; a compiler is more than a driver and a wheel.
        self.compiles_nothing = "a rehearsal compiles nothing" if machine.rehearsal else ""

    def seconds(self, row: Row) -> float:
        """About how long a row takes."""
        lengths, step = row.lengths(self._machine), row.flops(self._machine) / EXPECTED_FLOPS
        built = row.model == self._model
        compiles = row.compiled and not self.compiles_nothing
        warm_up = 1 if row.attention == "hybrid" or not built else 0
        steps = warm_up + 1 + (0 if step > LONG_SECONDS else TIMED_STEPS)
        cold = compiles and not (built and sum(lengths) in self._compiled_tokens)
        return steps * step + (COMPILE_SECONDS if cold else 0.0) + (0.0 if built else BUILD_SECONDS)

    def measure(self, row: Row) -> Measured:
        """Time one row, with the least recomputation that fits; not compiled where nothing can be."""
        if row.compiled and not self.compiles_nothing:
            try:
                return self._measure(row, compiled=True)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # the compiler's are of many kinds
                self.compiles_nothing = _one_line(error)
                self.close()
        return self._measure(row, compiled=False)

    def _measure(self, row: Row, *, compiled: bool) -> Measured:
        config, tokens = row.config(self._machine), sum(row.lengths(self._machine))
        stack = self._stack_of(row, config, compiled)
        keeps = keeps_to_try(
            config,
            tokens,
            state_bytes=stack.bytes_per_parameter * parameter_count(config),
            memory_bytes=self._machine.memory_bytes,
            compiled=compiled,
        )
        for kept in keeps:
            try:
                return self._time(self._stack_of(row, config, compiled), row, config, kept)
            except torch.OutOfMemoryError:
                if kept == keeps[-1]:
                    raise
            self.close()  # what a broken backward left in the engine goes with it
        raise AssertionError("there is always a mode")

    def close(self) -> None:
        """Free the model."""
        if self._stack is not None:
            self._stack.close()
        self._stack, self._model, self._warm = None, "", None
        torch.compiler.reset()  # what was compiled for one model counts against the next one's limit
        gc.collect()
        self._machine.forget()

    @property
    def stack(self) -> str:
        """What takes the steps."""
        return self._stack.name if self._stack is not None else ""

    def _stack_of(self, row: Row, config: ModelConfig, compiled: bool) -> Stack:
        if self._stack is None or row.model != self._model or (self._compiled and not compiled):
            self.close()
            self._stack = self._build(config)
            self._model, self._compiled = row.model, False
        if compiled and not self._compiled:
            compile_regions(self._stack.model)
            self._compiled, self._warm, self._compiled_tokens = True, None, set()
        return self._stack

    def _time(self, stack: Stack, row: Row, config: ModelConfig, kept: Kept) -> Measured:
        lengths = row.lengths(self._machine)
        batch = stream(lengths, config.vocab_size, micro_batches=row.micro_batches)
        adopt_recipe(stack.model, config)
        stack.model.keep_for_backward(kept.mode, kept.layers)
        shape = (row.model, sum(lengths), kept)
        if self._warm != shape:
            self._machine.forget()
            self._step(stack, batch)
        self._warm = shape
        self._machine.begin_peak()
        long = row.flops(self._machine) / EXPECTED_FLOPS > LONG_SECONDS
        repeats = 0 if long else TIMED_STEPS
        times = [self._step(stack, batch)[0] for _ in range(repeats)]
        loss, wall, spans = self._profiled_step(stack, batch)
        if self._compiled:
            self._compiled_tokens.add(sum(lengths))
        return Measured(
            compiled=self._compiled,
            kept=str(kept),
            seconds=statistics.median(times) if times else wall,
            loss=loss,
            peak_bytes=self._machine.peak_bytes(),
            breakdown=break_down(spans, wall) if spans else None,
            kernels=longest(spans),
        )

    def _step(self, stack: Stack, batch: GlobalBatch) -> tuple[float, float]:
        self._machine.wait()
        started = time.perf_counter()
        loss = stack.step(batch)
        self._machine.wait()
        return time.perf_counter() - started, loss

    def _profiled_step(self, stack: Stack, batch: GlobalBatch) -> tuple[float, float, list[Span]]:
        """Loss, wall seconds and kernels; a host that lets nobody profile gives no kernels."""
        losses: list[float] = []
        try:
            wall, spans = profiled(lambda: losses.append(stack.step(batch)), self._machine)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            wall, loss = self._step(stack, batch)
            return loss, wall, []
        return losses[0], wall, spans


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def check_speed(machine: Machine) -> Outcome:
    """Time every row there is time for."""
    outcome = Outcome(
        "Training, a whole step on one device, bfloat16",
        (
            "model",
            "attention",
            "batches x rows x tokens",
            "regions",
            "layers keep",
            "tokens/s",
            "TFLOP/s",
            "MFU",
            "of matmul",
            "peak GiB",
            "attention / products / rest / host",
        ),
    )
    matmul = device_matmul_flops(machine)
    name = torch.cuda.get_device_name(machine.device) if machine.is_cuda else ""
    peak = peak_flops(name, "bfloat16") or math.nan
    build, end, why_not = open_stacks(machine)
    bench = Bench(machine, build)
    try:
        for row in REHEARSED if machine.rehearsal else ROWS:
            _add_row(outcome, bench, row, machine, (peak, matmul))
            machine.record(outcome)
    finally:
        stack = bench.stack
        bench.close()
        end()
    outcome.notes += _notes(peak, matmul, stack, why_not)
    if bench.compiles_nothing and not machine.rehearsal:
        outcome.failures.append(f"nothing can be compiled here: {bench.compiles_nothing}")
    return outcome


def _add_row(
    outcome: Outcome, bench: Bench, row: Row, machine: Machine, rates: tuple[float, float]
) -> None:
    head = (row.model, row.attention, str(row))
    told, number = "", {"row": asdict(row)}
    measured: Measured | None = None
    try:
        if bench.seconds(row) > machine.seconds_left:
            told = _NO_TIME
        else:
            measured = bench.measure(row)
    except torch.OutOfMemoryError:
        told = "out of memory"
    except Exception as error:  # one row must not cost the others
        told = _one_line(error)
        outcome.failures.append(f"{' '.join(head)}: {told}")
    if measured is None:
        if told != _NO_TIME:
            bench.close()
        outcome.rows.append((*head, "-", told, *["-"] * 6))
        outcome.numbers.append(number | {"not_measured": told})
        return
    config = row.config(machine)
    sound = 0.0 < measured.loss < math.log(config.vocab_size) + NEAR
    outcome.expect(sound, f"{' '.join(head)}: loss {measured.loss} of a drawn model")
    numbers = _numbers(measured, row, machine, rates)
    outcome.rows.append((*head, *_cells(measured, numbers)))
    outcome.numbers.append(number | numbers)


def _numbers(
    measured: Measured, row: Row, machine: Machine, rates: tuple[float, float]
) -> dict[str, Any]:
    peak, matmul = rates
    flops = row.flops(machine)
    rate = flops / measured.seconds
    tokens = row.micro_batches * sum(row.lengths(machine))
    return asdict(measured) | {
        "tokens_per_second": tokens / measured.seconds,
        "model_flops": flops,
        "model_flops_per_second": rate,
        "mfu": None if math.isnan(peak) else rate / peak,
        "of_matmul": rate / matmul,
        "parameters": parameter_count(row.config(machine)),
    }


def _cells(measured: Measured, numbers: dict[str, Any]) -> tuple[str, ...]:
    parts = "-"
    if measured.breakdown is not None:
        parts = " / ".join(f"{share:.0%}" for share in measured.breakdown.shares.values())
    mfu = "-" if numbers["mfu"] is None else f"{numbers['mfu']:.1%}"
    return (
        "compiled" if measured.compiled else "eager",
        measured.kept,
        f"{numbers['tokens_per_second']:,.0f}",
        f"{numbers['model_flops_per_second'] / 1e12:.1f}",
        mfu,
        f"{numbers['of_matmul']:.1%}",
        f"{measured.peak_bytes / GIB:.1f}",
        parts,
    )


def _notes(peak: float, matmul: float, stack: str, why_not: str) -> list[str]:
    notes = [
        f"Steps by {stack or 'nothing'}; tokens and initial weights drawn on the device; one document a row.",
        f"MFU: model FLOP/s (no recomputation counted) of {peak / 1e12:.1f} TFLOP/s dense bfloat16; of matmul: of "
        f"the {matmul / 1e12:.1f} TFLOP/s that a product of two 8,192 x 8,192 matrices reached just before.",
        "attention / products / rest / host: shares of a profiled step; host is when no kernel ran.",
    ]
    if why_not:
        notes.append(f"Not through DeepSpeed: {why_not}.")
    return notes
