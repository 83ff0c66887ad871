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

    # Runs, each in a folder of its name.
    outputs: PathText = "outputs"
    # Corpora that a run prepares for itself (the quickstart's).
    prepared: PathText = "outputs/prepared"


@dataclass
class LearningRateConfig:
    """Learning rate as a function of tokens: see train/schedule/learning_rate.py."""

    # wsd: warm-up, stable, decay.
    shape: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    peak: NotNegative = 1e-3
    # Value at the end of the span; constant has none.
    final: NotNegative = 0.0
    # Tokens of linear rise from zero.
    warmup_tokens: Tokens = 0
    # wsd only: tokens of the final linear fall.
    decay_tokens: Tokens = 0


@dataclass
class ConstantBase:
    """A RoPE base that stays, as the number alone says too."""

    base: Base
    policy: Literal["constant"] = "constant"


@dataclass
class DerivedBase:
    """A RoPE base that stays and follows from what is known: see train/schedule/rope_base.py."""

    policy: Literal["keep", "ntk", "safe"]


@dataclass
class SteppedBase:
    """RoPE bases from so many tokens into the stage on: [[0, 1e4], [2e6, 5e4]]."""

    steps: list[tuple[Tokens, Base]]
    policy: Literal["stepped"] = "stepped"


@dataclass
class RampBase:
    """A RoPE base that rises log-linearly over tokens and then stays."""

    end: Base
    # null: the previous stage's last base.
    start: Base | None = None
    # null: the whole stage.
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

    # Stream tokens (padding included), rounded up to whole optimizer steps.
    tokens: Annotated[int, Ge(1)]
    # Longest document piece, in tokens: the context of this stage. One token predicts the next.
    sequence_length: Annotated[int, Ge(2), Le(2**31 - 1)]
    # Stream tokens of one optimizer step over all ranks.
    batch_tokens: StreamTokens
    # Stream tokens of one forward and backward on one rank.
    micro_batch_tokens: StreamTokens
    # A number, or a policy: see train/schedule/rope_base.py.
    rope_base: RopeBase = 10_000.0
    # A number (constant), a mapping like schedule.learning_rate over this stage only, or null: the run's.
    learning_rate: NotNegative | LearningRateConfig | None = None
    # The stage's own mix of sources, name -> weight (a source left out weighs nothing); empty: data.sources'.
    data: dict[str, NotNegative] = field(default_factory=dict)
    # Laid over the run's `parallel` from this stage on only: {sequence: 4, zero_stage: 2}; empty: the run's.
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

    stages: dict[str, StageConfig]
    # RoPE base and context length of the model that the first stage begins with, for policies that go on from
    # them; model=from_huggingface fills them in. 0: it begins with none.
    start_base: NotNegative = 0.0
    start_length: Tokens = 0
    learning_rate: LearningRateConfig = field(default_factory=LearningRateConfig)


@dataclass
class SpikesConfig:
    """What is done about a loss far above those before it: see train/health/spikes.py."""

    # stop and skip act before the weights change; rollback goes back to a checkpoint and steps over the data.
    action: Literal["ignore", "stop", "skip", "rollback"] = "ignore"
    # Steps of the stage that a loss is compared with; nothing is judged before half of them are there.
    window: Annotated[int, Ge(8)] = 128
    # A step spikes when its loss is so many (robust) standard deviations above the median.
    threshold: AtLeastOne = 6.0
    # rollback: after so many steps in a row that spiked or were not finite.
    patience: Annotated[int, Ge(1)] = 3
    # rollback: at most so often in the whole run.
    max_rollbacks: Annotated[int, Ge(1)] = 3


@dataclass
class TrainConfig:
    """The optimizer step and the machine under it."""

    # Of weights and activations; master weights and gradients stay float32.
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # Stop after this many optimizer steps; absent: the schedule's tokens.
    max_steps: Annotated[int, Ge(1)] | None = None
    # What every layer keeps for the backward: everything, attention (its input and what attention computed; the
    # rest is recomputed), input (all is recomputed), input_on_cpu (and offloaded) or tiles (and the feed-forward
    # works on tiles of tokens, for the longest streams).
    keep_for_backward: Literal["everything", "attention", "input", "input_on_cpu", "tiles"] = (
        "everything"
    )
    # So many of the model's layers, evenly spread, keep no more than that, the others everything; absent: all.
    recompute_layers: Annotated[int, Ge(1)] | None = None
    # Compile what lies between attention calls: auto (on a GPU, where the layout allows), always or never.
    compile_regions: Literal["auto", "always", "never"] = "auto"
    # Weight of the squared log-partition function in the loss; 0 is off.
    z_loss: NotNegative = 0.0
    # Choose only kernels that give the same bits every time; on GPUs slower.
    deterministic: bool = False
    # Optimizer steps with a non-finite loss or gradient, or a spike, that are skipped before the run stops.
    max_skipped_steps: Annotated[int, Ge(0)] = 0
    spikes: SpikesConfig = field(default_factory=SpikesConfig)


@dataclass
class EvaluationConfig:
    """Held-out loss by position, at the end of every stage."""

    enabled: bool = True
    # At most so many held-out tokens are scored.
    max_tokens: Annotated[int, Ge(1)] = 500_000
    # Also every so many optimizer steps; 0: only at the end of a stage.
    every_steps: Annotated[int, Ge(0)] = 0
    # Training tokens that the unigram and bigram yardsticks are counted on.
    yardstick_tokens: Annotated[int, Ge(1)] = 20_000_000


@dataclass
class CheckpointConfig:
    """When to save, how many to keep, where to go on."""

    # Optimizer steps between two checkpoints. auto: a hundredth of the schedule's steps, at least 1 and at most 500;
    # `--print` and config.yaml show that number. 0: only at the end of every stage and of the run.
    every_steps: Annotated[int, Ge(0)] | Literal["auto"] = "auto"
    # Newest checkpoints kept on disk.
    keep: Annotated[int, Ge(1)] = 2
    # auto (the run's own latest), never, or a checkpoint: its folder, a run's, or that of an imported model.
    resume: Annotated[str, PathMark(frozenset({"auto", "never"}))] = "auto"
    # Differences between checkpoint and configuration that are meant.
    allow_changes: list[Literal["rope_base", "rope_scaling", "data", "tokenizer"]] = field(
        default_factory=list
    )


@dataclass
class PreflightConfig:
    """What every rank looks at before the first step: see docs/reliability.md."""

    enabled: bool = True
    # Try every group: do sums come out right, how fast is it, which link is slow.
    links: bool = True
    # Bytes of the messages that are timed; 0: 4 MiB between CPUs, 64 MiB between GPUs.
    link_bytes: Annotated[int, Ge(0)] = 0
    # A link that is so many times slower than the median of its kind is named.
    slow_link: AtLeastOne = 3.0
    # A group whose transfer takes longer, in seconds, cannot talk.
    timeout_seconds: AtLeastOne = 20.0
    # Seconds in which all ranks must meet; then form the world; then look at their hosts.
    join_seconds: AtLeastOne = 300.0
    # A host whose clock is further from the main rank's is refused.
    clock_seconds: NotNegative = 2.0


@dataclass
class WandbConfig:
    """Weights & Biases; one run per job, its id kept over resumes."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "ropewalk"
    entity: str | None = None


@dataclass
class LoggingConfig:
    """What is written while training."""

    wandb: WandbConfig = field(default_factory=WandbConfig)
    # Seconds between console lines where no terminal shows the progress bar, and between those of log.txt.
    console_seconds: NotNegative = 10.0
    # Optimizer steps between two comparisons of the ranks' speeds; 0: never.
    straggler_steps: Annotated[int, Ge(0)] = 20
    # A rank that takes so many times the median is named.
    straggler_factor: AtLeastOne = 1.5


@dataclass
class RunConfig:
    """A whole run."""

    run_name: str
    schedule: ScheduleConfig
    seed: Annotated[int, Ge(0)] = 0
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
