"""Two data-parallel ranks beside OLMo-core: the same shape, weights and tokens, tokens/s in alternation.

    PYTHONPATH=.:tests python tests/benchmark/olmo.py

Two gloo ranks of one thread each, data parallel. Ours is the real engine: DeepSpeed, ZeRO-1. Theirs is their
Transformer with their `apply_fsdp`, torch's AdamW and gradient clipping. Their blocks are Llama's, so ours are the
sequential ones here, with RMSNorm, an untied head and RoPE in every layer; three layers of four have a window on both
sides. They turn halves of a head where we turn neighbours, so rows of queries and keys change places on the way over.
Both do one step first, and its losses must agree.

OLMo-core lives in an environment of its own, `outputs/benchmarks/olmo_venv`, made on the first call: pip puts it there
with what it lacks; all else, torch above all, is what this script runs with.
Prints a table and writes `outputs/benchmarks/olmo.json`.
"""

import json
import statistics
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data.batch import IGNORE, PackedBatch
from data.loader import GlobalBatch
from data.packing.spans import BatchShape
from model.attention.core import choose_core
from model.config import ModelConfig
from model.huggingface.links import split_halves
from model.initialization import initialize
from model.parameters import role_of
from model.transformer import Transformer
from parallel.config import ParallelConfig
from parallel.mesh import Mesh, start
from parallel.topology import Topology
from ranks import run_on_ranks
from train.build_trainer import build_trainer
from train.configuration.compose import compose_run
from train.schedule.rope_base import BaseCurve
from train.schedule.stages import Point, Stage
from train.step import optimizer_step

OUTPUT = Path("outputs/benchmarks/olmo.json")
HOME = Path("outputs/benchmarks/olmo_venv")
PACKAGE = "ai2-olmo-core==3.0.0"
CPU = torch.device("cpu")
RANKS, SEED, RATE, ROPE_BASE, CLIP = 2, 0, 1e-4, 10_000, 1.0
# Tokens a rank and step, and pairs of steps.
LENGTHS = {2048: 3, 8192: 2}
SHAPE = ModelConfig(
    num_layers=4,
    hidden_size=256,
    intermediate_size=768,
    num_heads=8,
    num_kv_heads=2,
    head_dim=32,
    vocab_size=8192,
    window=512,
    layer_pattern=["window_rope", "window_rope", "window_rope", "full_rope"],
    block="sequential",
    norm="rmsnorm",
    tie_embeddings=False,
)
# From our names to theirs, in this order.
_RENAMED = (
    ("attention.o_proj", "attention.w_out"),
    ("attention.q_proj", "attention.w_q"),
    ("attention.k_proj", "attention.w_k"),
    ("attention.v_proj", "attention.w_v"),
    ("gate_proj", "w1"),
    ("down_proj", "w2"),
    ("up_proj", "w3"),
    ("lm_head.", "lm_head.w_out."),
    ("embedding.", "embeddings."),
)
Step = Callable[[], float]


@dataclass(frozen=True)
class Stream:
    """What one rank trains on: one document."""

    tokens_T: Tensor
    targets_T: Tensor


def make_environment() -> Path:
    """The Python that has OLMo-core and everything of ours; made if it is not there."""
    python = HOME / "bin" / "python"
    ready = HOME / "ready"
    if not ready.exists():
        venv.create(HOME, with_pip=True, clear=True)
        (packages,) = HOME.glob("lib/python*/site-packages")
        (packages / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        command = [
            str(python),
            "-m",
            "pip",
            "install",
            "-q",
            PACKAGE,
            f"torch=={torch.__version__}",
        ]
        done = subprocess.run(command, check=False, stdout=sys.stderr)
        if done.returncode:
            sys.exit(f"{PACKAGE}: pip could not install it (status {done.returncode}); see above")
        ready.touch()
    return python


def their_model(config: ModelConfig) -> nn.Module:
    """Their Transformer of this shape, not yet sharded."""
    from olmo_core.nn.attention import AttentionBackendName, SlidingWindowAttentionConfig
    from olmo_core.nn.feed_forward import FeedForwardConfig
    from olmo_core.nn.transformer import TransformerConfig

    window = SlidingWindowAttentionConfig(
        pattern=[config.window] * 3 + [-1],
        force_full_attention_on_first_layer=False,
        force_full_attention_on_last_layer=False,
    )
    theirs = TransformerConfig.llama_like(
        d_model=config.hidden_size,
        vocab_size=config.vocab_size,
        n_layers=config.num_layers,
        n_heads=config.num_heads,
        n_kv_heads=config.num_kv_heads,
        rope_theta=ROPE_BASE,
        layer_norm_eps=config.norm_eps,
        feed_forward=FeedForwardConfig(hidden_size=config.intermediate_size, bias=False),
        attn_backend=AttentionBackendName.torch,
        sliding_window=window,
    )
    model: nn.Module = theirs.build(init_device="cpu")
    return model


@torch.no_grad()
def copy_weights(config: ModelConfig, theirs: nn.Module) -> None:
    """Our initial weights into their model; every one of theirs gets one of ours."""
    ours = Transformer(config, choose_core("auto", CPU, torch.float32))
    initialize(ours, config, SEED)
    parameters = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        value = parameter
        if role_of(name).turned:
            value = split_halves(parameter, config.head_dim)
        parameters.pop(their_name(name)).copy_(value)
    assert not parameters, f"not filled: {sorted(parameters)}"


def their_name(name: str) -> str:
    """What OLMo-core calls our parameter."""
    if name == "norm.weight":
        return "lm_head.norm.weight"
    for ours, theirs in _RENAMED:
        name = name.replace(ours, theirs)
    return name.replace("layers.", "blocks.").replace(".norm.", ".attention_norm.")


def stream_of(rank: int, num_tokens: int) -> Stream:
    """Tokens of this rank, the same for both sides."""
    generator = torch.Generator().manual_seed(rank)
    tokens_T = torch.randint(0, SHAPE.vocab_size, (num_tokens,), generator=generator)
    targets_T = tokens_T.roll(-1)
    targets_T[-1] = IGNORE
    return Stream(tokens_T, targets_T)


def our_step(mesh: Mesh, stream: Stream) -> Step:
    """Our engine's step on this rank's stream."""
    num_tokens = len(stream.tokens_T)
    config = compose_run(["schedule=small"])
    config.model, config.parallel, config.seed = SHAPE, ParallelConfig(), SEED
    config.optimizer.gradient_clipping = CLIP
    trainer = build_trainer(config, mesh, config.parallel, sequence_length=num_tokens)
    mine = PackedBatch(
        stream.tokens_T, stream.targets_T, (num_tokens,), (0,), num_tokens - 1, 0, ()
    )
    shape = BatchShape(num_tokens, RANKS * num_tokens, num_tokens, (1.0,))
    batch = GlobalBatch(shape, (mine,), RANKS * mine.valid_tokens, 0, {})
    point = Point(
        Stage("only", 0, 0, 1, shape, BaseCurve(((0, ROPE_BASE),)), None), RATE, ROPE_BASE
    )
    return lambda: optimizer_step(trainer, mesh, batch, point=point, model=SHAPE, stop=False).loss


def their_step(stream: Stream) -> Step:
    """Their model under their FSDP, on this rank's stream."""
    from torch.distributed.device_mesh import init_device_mesh

    model: Any = their_model(SHAPE)
    copy_weights(SHAPE, model)
    model.apply_fsdp(dp_mesh=init_device_mesh("cpu", (RANKS,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)

    def step() -> float:
        loss = model(stream.tokens_T[None], labels=stream.targets_T[None]).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach().clone()
        torch.distributed.all_reduce(mean)
        return mean.item() / RANKS

    return step


def timed(step: Step) -> tuple[float, float, float]:
    """Wall seconds of the slowest rank, CPU seconds of all, and the loss. Collective."""
    torch.distributed.barrier()
    wall, cpu = time.perf_counter(), time.process_time()
    loss = step()
    spent = torch.tensor([time.perf_counter() - wall, time.process_time() - cpu])
    rows = [torch.empty_like(spent) for _ in range(RANKS)]
    torch.distributed.all_gather(rows, spent)
    table = torch.stack(rows)
    return table[:, 0].max().item(), table[:, 1].sum().item(), loss


def measure(rank: int, world_size: int) -> list[dict[str, Any]]:
    """Pairs of steps at every length, after one step whose losses must agree."""
    mesh = start(CPU, 600, Topology(data=world_size))
    found = []
    for num_tokens, pairs in LENGTHS.items():
        stream = stream_of(rank, num_tokens)
        steps = {"ours": our_step(mesh, stream), "theirs": their_step(stream)}
        ours, theirs = steps["ours"](), steps["theirs"]()
        assert abs(ours - theirs) < 1e-4, f"{num_tokens} tokens: losses {ours} and {theirs}"
        for number in range(pairs):
            pair: dict[str, Any] = {"tokens": num_tokens, "losses": [ours, theirs]}
            for name in sorted(steps, reverse=number % 2 == 1):
                pair[name] = timed(steps[name])
            found.append(pair)
    return found


def main() -> None:
    """Measure, print the table, write the file."""
    pairs = run_on_ranks(measure, RANKS, timeout=900)[0]
    write = sys.stdout.write
    write(
        f"{SHAPE.num_layers} layers of width {SHAPE.hidden_size}, window {SHAPE.window}, float32; "
    )
    write("ZeRO-1 beside FSDP, one thread a rank\n")
    write(f"{'tokens a rank':>13}{'ours tok/s':>12}{'theirs':>8}{'theirs over ours: wall':>28}")
    write(f"{'cpu':>7}\n")
    for num_tokens in LENGTHS:
        of_length = [pair for pair in pairs if pair["tokens"] == num_tokens]
        wall = [pair["theirs"][0] / pair["ours"][0] for pair in of_length]
        cpu = statistics.median(pair["theirs"][1] / pair["ours"][1] for pair in of_length)
        ours, theirs = (
            RANKS * num_tokens / statistics.median(pair[side][0] for pair in of_length)
            for side in ("ours", "theirs")
        )
        middle = f"{statistics.median(wall):.2f} ({min(wall):.2f}-{max(wall):.2f})"
        write(f"{num_tokens:>13}{ours:>12.0f}{theirs:>8.0f}{middle:>28}{cpu:>7.2f}\n")
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps({"torch": torch.__version__, "pairs": pairs}, indent=1) + "\n")


if __name__ == "__main__":
    if "--here" in sys.argv:
        main()
    else:
        command = [str(make_environment()), __file__, "--here"]
        sys.exit(subprocess.run(command, check=False).returncode)
