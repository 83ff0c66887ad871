"""The schema of a run: one plain dataclass a folder, joined in `RunConfig`.

`conf/` holds the values. `train/configuration/compose.py` turns YAML and command line into these objects once; the
rest of the code receives the smallest part that serves, never the tree, never a DictConfig.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.config import DataConfig
from model.config import ModelConfig
from parallel.config import OptimizerConfig, ParallelConfig

PRECISIONS = ("float32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")
COMPILE = ("auto", "always", "never")
KEPT_FOR_BACKWARD = ("everything", "attention", "input", "input_on_cpu", "tiles")
WANDB_MODES = ("offline", "online", "disabled")
ALLOWED_CHANGES = ("rope_base", "rope_scaling", "data", "tokenizer")
SPIKE_ACTIONS = ("ignore", "stop", "skip", "rollback")


@dataclass
class PathsConfig:
    """Where files go, relative to the folder the run is started from."""

    outputs: str = "outputs"
    # Corpora that a run prepares for itself (the quickstart's).
    prepared: str = "outputs/prepared"


@dataclass
class StageConfig:
    """One row of the run's table: so many tokens at this length."""

    # Stream tokens (padding included), rounded up to whole optimizer steps.
    tokens: int
    # Longest document piece, in tokens: the context of this stage.
    sequence_length: int
    # Stream tokens of one optimizer step over all ranks.
    batch_tokens: int
    # Stream tokens of one forward and backward on one rank.
    micro_batch_tokens: int
    # A number, or a policy: see train/schedule/rope_base.py.
    rope_base: Any = 10_000.0
    # A number (constant), a mapping like schedule.learning_rate over this stage only, or null: the run's.
    learning_rate: Any = None
    # The stage's own mix of sources, name -> weight (a source left out weighs nothing); empty: data.sources'.
    data: dict[str, float] = field(default_factory=dict)
    # Laid over the run's `parallel` from this stage on only: {sequence: 4, zero_stage: 2}; empty: the run's.
    parallel: dict[str, Any] = field(default_factory=dict)


@dataclass
class LearningRateConfig:
    """Learning rate as a function of tokens: see train/schedule/learning_rate.py."""

    # constant, linear, cosine or wsd (warm-up, stable, decay).
    shape: str = "cosine"
    peak: float = 1e-3
    # Value at the end of the span; constant has none.
    final: float = 0.0
    # Tokens of linear rise from zero.
    warmup_tokens: int = 0
    # wsd only: tokens of the final linear fall.
    decay_tokens: int = 0


@dataclass
class ScheduleConfig:
    """Everything that changes over the run, as functions of tokens seen."""

    stages: dict[str, StageConfig]
    # RoPE base and context length of the model that the first stage begins with, for policies that go on from
    # them; model=from_huggingface fills them in. 0: it begins with none.
    start_base: float = 0.0
    start_length: int = 0
    learning_rate: LearningRateConfig = field(default_factory=LearningRateConfig)


@dataclass
class SpikesConfig:
    """What is done about a loss far above those before it: see train/health/spikes.py."""

    # ignore; stop or skip, both before the weights change; or rollback: go back to a checkpoint and step over
    # the data.
    action: str = "ignore"
    # Steps of the stage that a loss is compared with; nothing is judged before half of them are there.
    window: int = 128
    # A step spikes when its loss is so many (robust) standard deviations above the median.
    threshold: float = 6.0
    # rollback: after so many steps in a row that spiked or were not finite.
    patience: int = 3
    # rollback: at most so often in the whole run.
    max_rollbacks: int = 3


@dataclass
class TrainConfig:
    """The optimizer step and the machine under it."""

    # float32 or bfloat16 (weights and activations; master weights and gradients stay float32).
    precision: str = "float32"
    # auto, cpu or cuda.
    device: str = "auto"
    # Stop after this many optimizer steps; absent: the schedule's tokens.
    max_steps: int | None = None
    # What every layer keeps for the backward: everything, attention (its input and what attention computed; the
    # rest is recomputed), input (all is recomputed), input_on_cpu (and offloaded) or tiles (and the feed-forward
    # works on tiles of tokens, for the longest streams).
    keep_for_backward: str = "everything"
    # So many of the model's layers, evenly spread, keep no more than that, the others everything; absent: all.
    recompute_layers: int | None = None
    # Compile what lies between attention calls: auto (on a GPU, where the layout allows), always or never.
    compile_regions: str = "auto"
    # Weight of the squared log-partition function in the loss; 0 is off.
    z_loss: float = 0.0
    # Choose only kernels that give the same bits every time; on GPUs slower.
    deterministic: bool = False
    # Optimizer steps with a non-finite loss or gradient, or a spike, that are skipped before the run stops.
    max_skipped_steps: int = 0
    spikes: SpikesConfig = field(default_factory=SpikesConfig)


@dataclass
class EvaluationConfig:
    """Held-out loss by position, at the end of every stage."""

    enabled: bool = True
    # At most so many held-out tokens are scored.
    max_tokens: int = 500_000
    # Also every so many optimizer steps; 0: only at the end of a stage.
    every_steps: int = 0
    # Training tokens that the unigram and bigram yardsticks are counted on.
    yardstick_tokens: int = 20_000_000


@dataclass
class CheckpointConfig:
    """When to save, how many to keep, where to go on."""

    # 0: only at the end of every stage and of the run.
    every_steps: int = 0
    # Newest checkpoints kept on disk.
    keep: int = 2
    # auto (the run's own latest), never, or a checkpoint's folder.
    resume: str = "auto"
    # Differences between checkpoint and configuration that are meant: rope_base, rope_scaling, data, tokenizer.
    allow_changes: list[str] = field(default_factory=list)


@dataclass
class PreflightConfig:
    """What every rank looks at before the first step: see docs/reliability.md."""

    enabled: bool = True
    # Try every group: do sums come out right, how fast is it, which link is slow.
    links: bool = True
    # Bytes of the messages that are timed; 0: 4 MiB between CPUs, 64 MiB between GPUs.
    link_bytes: int = 0
    # A link that is so many times slower than the median of its kind is named.
    slow_link: float = 3.0
    # A group whose transfer takes longer, in seconds, cannot talk.
    timeout_seconds: float = 20.0
    # Seconds in which all ranks must meet; then form the world; then look at their hosts.
    join_seconds: float = 300.0
    # A host whose clock is further from the main rank's is refused.
    clock_seconds: float = 2.0


@dataclass
class WandbConfig:
    """Weights & Biases; one run per job, its id kept over resumes."""

    # offline, online or disabled.
    mode: str = "offline"
    project: str = "ropewalk"
    entity: str | None = None


@dataclass
class LoggingConfig:
    """What is written while training."""

    wandb: WandbConfig = field(default_factory=WandbConfig)
    # Seconds between console lines where no terminal shows the progress bar, and between those of log.txt.
    console_seconds: float = 10.0
    # Optimizer steps between two comparisons of the ranks' speeds; 0: never.
    straggler_steps: int = 20
    # A rank that takes so many times the median is named.
    straggler_factor: float = 1.5


@dataclass
class RunConfig:
    """A whole run."""

    run_name: str
    schedule: ScheduleConfig
    seed: int = 0
    paths: PathsConfig = field(default_factory=PathsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    preflight: PreflightConfig = field(default_factory=PreflightConfig)


def run_folder(config: RunConfig) -> Path:
    """Where the run writes everything: outputs/<run_name>."""
    return Path(config.paths.outputs) / config.run_name
