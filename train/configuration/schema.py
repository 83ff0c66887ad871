"""The schema of a run: one plain dataclass a folder, joined in `RunConfig`.

`conf/` holds the values. `train/configuration/compose.py` turns YAML and command line into these objects once; the
rest of the code receives the smallest part that serves, never the tree, never a DictConfig.
"""

from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from data.config import DataConfig, PathMark, PathText
from model.config import ModelConfig
from parallel.config import OptimizerConfig, ParallelConfig

NotNegative = Annotated[float, Ge(0), Lt(inf)]
AtLeastOne = Annotated[float, Ge(1), Lt(inf)]
Tokens = Annotated[int, Ge(0)]
# Offsets in a stream are 32-bit integers.
StreamTokens = Annotated[int, Ge(1), Le(2**31 - 1)]
Base = Annotated[float, Gt(1), Lt(inf)]


@dataclass
class PathsConfig:
    """Where files go."""

    # Folder that runs are written to, each into a folder of its name.
    outputs: PathText = "outputs"
    # Folder of corpora that a run prepares for itself (the quickstart's).
    prepared: PathText = "outputs/prepared"


@dataclass
class LearningRateConfig:
    """Learning rate as a function of tokens: see train/schedule/learning_rate.py."""

    # Course of the rate after the warm-up: constant, a line or a cosine from peak to final, or wsd: stable, then a
    # linear decay.
    shape: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    # Highest learning rate, reached at the end of the warm-up.
    peak: NotNegative = 1e-3
    # Learning rate at the end of the span; constant has none.
    final: NotNegative = 0.0
    # Tokens over which the rate rises linearly from zero.
    warmup_tokens: Tokens = 0
    # Tokens of the linear fall at the end; wsd only.
    decay_tokens: Tokens = 0


@dataclass
class ConstantBase:
    """A RoPE base that stays, as the number alone says too."""

    # The RoPE base.
    base: Base
    policy: Literal["constant"] = "constant"


@dataclass
class DerivedBase:
    """A RoPE base that stays and follows from what is known: see train/schedule/rope_base.py."""

    policy: Literal["keep", "ntk", "safe"]


@dataclass
class SteppedBase:
    """RoPE bases from so many tokens into the stage on: [[0, 1e4], [2e6, 5e4]]."""

    # Pairs [tokens into the stage, base from there on].
    steps: list[tuple[Tokens, Base]]
    policy: Literal["stepped"] = "stepped"


@dataclass
class RampBase:
    """A RoPE base that rises log-linearly over tokens and then stays."""

    # Base at the end of the ramp.
    end: Base
    # Base at its beginning; null: the previous stage's last base.
    start: Base | None = None
    # Length of the ramp in tokens; null: the whole stage.
    tokens: Annotated[int, Ge(1)] | None = None
    policy: Literal["ramp"] = "ramp"


RopeBase = Base | ConstantBase | DerivedBase | SteppedBase | RampBase


@dataclass(frozen=True)
class PartOf:
    """Marks a mapping that holds some of another dataclass's fields, but none of those `without`."""

    schema: type
    without: frozenset[str]


# What belongs to the processes, not to the layout of a stage.
OF_ALL_STAGES = frozenset({"timeout_seconds", "timeouts", "first_step_seconds"})


@dataclass
class StageConfig:
    """One row of the run's table: so many tokens at this length."""

    # Length of the stage in stream tokens (padding included), rounded up to whole optimizer steps.
    tokens: Annotated[int, Ge(1)]
    # Longest document piece in tokens: the context of this stage. One token predicts the next.
    sequence_length: Annotated[int, Ge(2), Le(2**31 - 1)]
    # Stream tokens of one optimizer step over all ranks.
    batch_tokens: StreamTokens
    # Stream tokens of one forward and backward on one rank.
    micro_batch_tokens: StreamTokens
    # RoPE base of layers without a base of their own: a number, or a policy (train/schedule/rope_base.py).
    rope_base: RopeBase = 10_000.0
    # Learning rate of this stage: a number (constant), a mapping like schedule.learning_rate, or null for the run's.
    learning_rate: NotNegative | LearningRateConfig | None = None
    # Mix of sources of this stage, from names to weights. A source left out weighs nothing; empty: the weights of
    # data.sources.
    data: dict[str, NotNegative] = field(default_factory=dict)
    # Settings of `parallel` that hold in this stage only, for example {sequence: 4, zero_stage: 2}; empty: the run's.
    parallel: Annotated[dict[str, Any], PartOf(ParallelConfig, OF_ALL_STAGES)] = field(
        default_factory=dict
    )

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the stage: its tokens, rounded up to whole batches."""
        return -(-self.tokens // self.batch_tokens)

    def layout(self, run: ParallelConfig) -> ParallelConfig:
        """The layout of this stage; run: the run's."""
        return replace(run, **self.parallel)


@dataclass
class ScheduleConfig:
    """Everything that changes over the run, as functions of tokens seen."""

    # Stages by name, in the order in which they run.
    stages: dict[str, StageConfig]
    # RoPE base of the model that the first stage begins with, for policies that go on from it; 0: none.
    # model=from_huggingface sets it.
    start_base: NotNegative = 0.0
    # Context length in tokens of the model that the first stage begins with, for the policy ntk; 0: none.
    # model=from_huggingface sets it.
    start_length: Tokens = 0
    # Learning rate over the whole run, for stages without one of their own.
    learning_rate: LearningRateConfig = field(default_factory=LearningRateConfig)


@dataclass
class SpikesConfig:
    """What is done about a loss far above those before it: see train/health/spikes.py."""

    # What is done about a spike of the loss. stop and skip act before the weights change; rollback goes back to a
    # checkpoint and skips the data.
    action: Literal["ignore", "stop", "skip", "rollback"] = "ignore"
    # Steps of the stage that a loss is compared with; nothing is judged before half of them are there.
    window: Annotated[int, Ge(8)] = 128
    # Robust standard deviations above the median of those losses that make a spike.
    threshold: AtLeastOne = 6.0
    # Steps in a row that spiked, or were not finite, before a rollback.
    patience: Annotated[int, Ge(1)] = 3
    # Rollbacks in the whole run before it stops.
    max_rollbacks: Annotated[int, Ge(1)] = 3


@dataclass
class TrainConfig:
    """The optimizer step and the machine under it."""

    # Precision of weights and activations; master weights and gradients stay float32.
    precision: Literal["float32", "bfloat16"] = "float32"
    # Device to compute on; auto: a GPU where there is one.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # Optimizer steps after which the run stops; null: when the schedule's tokens are over. The schedule is not
    # shortened.
    max_steps: Annotated[int, Ge(1)] | None = None
    # What every layer keeps for its backward. everything: no recomputation. attention: its input and what attention
    # computed. input: its input only. input_on_cpu: that, in host memory. tiles: that, with feed-forwards on tiles of
    # tokens.
    keep_for_backward: Literal["everything", "attention", "input", "input_on_cpu", "tiles"] = (
        "everything"
    )
    # Number of layers, evenly spread, that keep_for_backward holds for; the others keep everything. null: all layers.
    recompute_layers: Annotated[int, Ge(1)] | None = None
    # Whether what lies between attention calls is compiled; auto: on a GPU, where the layout allows it.
    compile_regions: Literal["auto", "always", "never"] = "auto"
    # Weight of the squared log-partition function in the loss; 0 is off.
    z_loss: NotNegative = 0.0
    # FLOP/s that one device could reach, the measure of `mfu`. Absent: by the device's name, from its data sheet.
    peak_flops_per_second: Annotated[float, Gt(0), Lt(inf)] | None = None
    # Whether only kernels are chosen that give the same bits every time; slower on GPUs.
    deterministic: bool = False
    # Optimizer steps that may be skipped, for a non-finite loss or gradient or a spike, before the run stops.
    max_skipped_steps: Annotated[int, Ge(0)] = 0
    # What is done about a loss far above those before it.
    spikes: SpikesConfig = field(default_factory=SpikesConfig)


@dataclass
class EvaluationConfig:
    """Held-out loss by position, at the end of every stage."""

    # Whether held-out loss is computed at the end of every stage.
    enabled: bool = True
    # Most held-out tokens that are scored in one evaluation.
    max_tokens: Annotated[int, Ge(1)] = 500_000
    # Optimizer steps between two evaluations inside a stage; 0: none, only at its end.
    every_steps: Annotated[int, Ge(0)] = 0
    # Training tokens that the unigram and bigram yardsticks are counted on.
    yardstick_tokens: Annotated[int, Ge(1)] = 20_000_000


@dataclass
class CheckpointConfig:
    """When to save, how many to keep, where to go on."""

    # Optimizer steps between two checkpoints inside a stage. auto: a hundredth of the schedule's steps, at least 1 and
    # at most 500; `--print` and config.yaml show that number. 0: only at the end of every stage and of the run.
    every_steps: Annotated[int, Ge(0)] | Literal["auto"] = "auto"
    # Newest checkpoints that stay on disk; older ones are removed.
    keep: Annotated[int, Ge(1)] = 2
    # Where the run begins: auto (its own newest checkpoint), never, or a checkpoint: its folder, a run's, or that of an
    # imported model.
    resume: Annotated[str, PathMark(frozenset({"auto", "never"}))] = "auto"
    # Differences between checkpoint and configuration that are meant.
    allow_changes: list[Literal["rope_base", "rope_scaling", "data", "tokenizer"]] = field(
        default_factory=list
    )


@dataclass
class PreflightConfig:
    """What every rank looks at before the first step: see docs/reliability.md."""

    # Whether every rank looks at its host before the first step.
    enabled: bool = True
    # Whether every process group is tried: are sums right, how fast is it, which link is slow.
    links: bool = True
    # Bytes of the messages that are timed; 0: 4 MiB between CPUs, 64 MiB between GPUs.
    link_bytes: Annotated[int, Ge(0)] = 0
    # Factor below the median speed of its kind from which on a link is named.
    slow_link: AtLeastOne = 3.0
    # Seconds that a transfer may take before its group counts as broken.
    timeout_seconds: AtLeastOne = 20.0
    # Seconds for each of three phases: rendezvous, creating process groups, checking hosts.
    join_seconds: AtLeastOne = 300.0
    # Seconds that a host's clock may differ from the main rank's.
    clock_seconds: NotNegative = 2.0


@dataclass
class WandbConfig:
    """Weights & Biases; one run per job, its id kept over resumes."""

    # offline: into the run's folder; online: to the server as well; disabled: nothing.
    mode: Literal["offline", "online", "disabled"] = "offline"
    # Name of the project.
    project: str = "ropewalk"
    # User or team that the project belongs to; null: the account's default.
    entity: str | None = None


@dataclass
class LoggingConfig:
    """What is written while training."""

    # Weights & Biases.
    wandb: WandbConfig = field(default_factory=WandbConfig)
    # Seconds between two lines of log.txt, and of the console where there is no terminal for a progress bar.
    console_seconds: NotNegative = 10.0
    # Optimizer steps between two comparisons of the ranks' speeds; 0: never.
    straggler_steps: Annotated[int, Ge(0)] = 20
    # Factor above the median time from which on a rank is named as slow.
    straggler_factor: AtLeastOne = 1.5


@dataclass
class RunConfig:
    """A whole run."""

    # Name of the run and of its folder.
    run_name: str
    # Stages and learning rate: everything that changes over the run.
    schedule: ScheduleConfig
    # Seed of the initial weights and, through data.seed, of the data.
    seed: Annotated[int, Ge(0)] = 0
    # Where files go.
    paths: PathsConfig = field(default_factory=PathsConfig)
    # Shape and recipe of the model.
    model: ModelConfig = field(default_factory=ModelConfig)
    # Where documents come from and how they are packed.
    data: DataConfig = field(default_factory=DataConfig)
    # How one step is spread over ranks.
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    # What updates the weights.
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    # The optimizer step and the machine under it.
    train: TrainConfig = field(default_factory=TrainConfig)
    # Held-out loss by position.
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    # When to save, how many to keep, where to go on.
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    # What is written while training.
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    # What every rank looks at before the first step.
    preflight: PreflightConfig = field(default_factory=PreflightConfig)


def run_folder(config: RunConfig) -> Path:
    """Where the run writes everything: outputs/<run_name>."""
    return Path(config.paths.outputs) / config.run_name
