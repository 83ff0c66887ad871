"""The schema of a run: one plain dataclass per section, joined in `RunConfig`.

`conf/` holds the values. `train/configuration/compose.py` turns YAML and command line into these objects once; other
code receives the smallest part that it needs, never a DictConfig. The comment above a field is its text in `--help`.
"""

from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from data.config import DataConfig, PathMark, PathText
from model.config import Keys, ModelConfig
from model.position.methods import RopeMethod
from model.position.scales.methods import AnyScale
from parallel.config import NotNegative, OptimizerConfig, ParallelConfig, Positive
from train.configuration.evaluation_settings import EvaluationConfig
from train.configuration.long_context_settings import LongCeConfig

AtLeastOne = Annotated[float, Ge(1), Lt(inf)]
Tokens = Annotated[int, Ge(0)]
# Offsets in a stream are 32-bit integers.
StreamTokens = Annotated[int, Ge(1), Le(2**31 - 1)]
Base = Annotated[float, Gt(1), Lt(inf)]


@dataclass
class PathsConfig:
    """Where files go."""

    # Folder of all runs; each run writes into the folder paths.outputs/run_name.
    outputs: PathText = "outputs"
    # Folder for the token files of an embedded corpus (data.corpus), which the run makes itself.
    prepared: PathText = "outputs/prepared"


@dataclass
class LearningRateConfig:
    """Learning rate as a function of tokens: see train/schedule/learning_rate.py."""

    # Learning rate after the warm-up. constant: stays at peak. linear, cosine: falls from peak to final. wsd: stays at
    # peak, then falls linearly to final over decay_tokens.
    shape: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    # Highest learning rate, reached at the end of the warm-up.
    peak: NotNegative = 1e-3
    # Learning rate at the end of the run, or of the stage if the stage sets its own; not used by shape=constant.
    final: NotNegative = 0.0
    # Tokens over which the learning rate rises linearly from zero to peak; 0: no warm-up.
    warmup_tokens: Tokens = 0
    # Tokens of the linear decay at the end; required by shape=wsd, not used by other shapes.
    decay_tokens: Tokens = 0


@dataclass
class ConstantBase:
    """A constant RoPE base; the number alone means the same."""

    # The RoPE base.
    base: Base
    policy: Literal["constant"] = "constant"


@dataclass
class DerivedBase:
    """A constant RoPE base computed from the model and the stages: see train/schedule/rope_base.py."""

    policy: Literal["keep", "ntk", "safe"]


@dataclass
class SteppedBase:
    """RoPE bases that change at given tokens of the stage: [[0, 1e4], [2e6, 5e4]]."""

    # Pairs [tokens into the stage, base from there on]; the first pair starts at 0.
    steps: list[tuple[Tokens, Base]]
    policy: Literal["stepped"] = "stepped"


@dataclass
class RampBase:
    """A RoPE base that rises log-linearly over tokens and then stays."""

    # Base at the end of the ramp.
    end: Base
    # Base at the start of the ramp; null: the previous stage's last base.
    start: Base | None = None
    # Length of the ramp in tokens; null: the whole stage.
    tokens: Annotated[int, Ge(1)] | None = None
    policy: Literal["ramp"] = "ramp"


RopeBase = Base | ConstantBase | DerivedBase | SteppedBase | RampBase


@dataclass(frozen=True)
class PartOf:
    """Marks a mapping that may hold any fields of the dataclass `schema` except those in `without`."""

    schema: type
    without: frozenset[str]


@dataclass
class PoseConfig:
    """PoSE, skips in the positions of a stage: see data/packing/positions.py."""

    # Positions reach up to this number of tokens, at least the stage's sequence_length.
    target_length: Annotated[int, Ge(2), Le(2**31 - 1)]
    # Number of pieces with a skip between two of them; a document with fewer tokens has a piece for each token.
    chunks: Annotated[int, Ge(2)] = 2


# Fields of `ParallelConfig` that a stage cannot override: they hold for the processes, not for a layout.
OF_ALL_STAGES = frozenset({"timeout_seconds", "timeouts", "first_step_seconds"})


@dataclass
class WindowRamp:
    """A window that grows over the stage, as in SkyLadder (arXiv 2503.15450, section 3)."""

    # Keys that a token sees at the start of the stage, itself included.
    start: Keys
    # Keys at the end of the ramp; 0: the window that the model gives the kind or, where it gives none, the stage's
    # sequence_length.
    end: Annotated[int, Ge(0), Le(2**31 - 1)] = 0
    # Keys by which the window grows an optimizer step; 0: it grows evenly over the tokens of the stage.
    per_step: NotNegative = 0.0
    policy: Literal["ramp"] = "ramp"


@dataclass
class StageKindConfig:
    """What a stage changes in one kind of layer; null: as in model.kinds."""

    # How these layers rotate in this stage, in place of the whole of model.kinds.NAME.rope; null: as there.
    rope: RopeMethod | None = None
    # none: these layers do not rotate in this stage (DroPE); as_named: as the name of the kind says.
    position: Literal["as_named", "none"] | None = None
    # Factor of the queries by position in this stage, in place of model.kinds.NAME.position_scale; only scales without
    # a parameter.
    position_scale: AnyScale | None = None
    # Keys that a token of these layers sees in this stage, itself included: a number, or a ramp; null: as in the model.
    # Layers of every kind may have one; in full layers a window of sequence_length or more is none.
    window: Keys | WindowRamp | None = None


@dataclass
class StageGroupConfig:
    """What a stage changes in one group of parameters; null: as in optimizer.groups."""

    # Factor of the learning rate in this stage.
    learning_rate_factor: Positive | None = None
    # Factor of optimizer.weight_decay in this stage.
    weight_decay_factor: NotNegative | None = None
    # Whether the group's weights stay as they are in this stage; states of AdamW start at zero where they train again.
    frozen: bool | None = None


@dataclass
class StageConfig:
    """One row of the run's table of stages: a number of tokens at one context length."""

    # Length of the stage in stream tokens, padding included; rounded up to whole optimizer steps.
    tokens: Annotated[int, Ge(1)]
    # Context length of the stage in tokens: the longest piece of a document.
    sequence_length: Annotated[int, Ge(2), Le(2**31 - 1)]
    # Stream tokens of one optimizer step over all ranks, padding included.
    batch_tokens: StreamTokens
    # Stream tokens of one forward and backward, before tensor and sequence ranks divide them.
    micro_batch_tokens: StreamTokens
    # RoPE base of the layers that set none of their own: a number, or a policy (train/schedule/rope_base.py).
    rope_base: RopeBase = 10_000.0
    # Learning rate of the stage: a number (constant) or a mapping like schedule.learning_rate; null:
    # schedule.learning_rate.
    learning_rate: NotNegative | LearningRateConfig | None = None
    # Weights of the sources in this stage, by name. A source that is left out has weight 0; empty: the weights in
    # data.sources.
    data: dict[str, NotNegative] = field(default_factory=dict)
    # Whether attention stays within a document; false: a token also sees the earlier documents of its row.
    document_mask: bool = True
    # Whether positions restart at every document; false: they go on along the row.
    reset_positions: bool = True
    # PoSE, for example {target_length: 8192, chunks: 2}: positions of a document (of a row if they go on) are cut into
    # chunks and shifted by random skips, so that they reach up to target_length tokens; null: no skips.
    pose: PoseConfig | None = None
    # Settings of kinds of layers that this stage changes, by name of the kind; empty: none.
    kinds: dict[str, StageKindConfig] = field(default_factory=dict)
    # Settings of groups of parameters that this stage changes, by name of the group, for example
    # {rest: {frozen: true}}; empty: none.
    groups: dict[str, StageGroupConfig] = field(default_factory=dict)
    # Settings of `parallel` that this stage overrides, for example {sequence: 4, zero_stage: 2}; empty: none.
    parallel: Annotated[dict[str, Any], PartOf(ParallelConfig, OF_ALL_STAGES)] = field(
        default_factory=dict
    )

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the stage: its tokens, rounded up to whole batches."""
        return -(-self.tokens // self.batch_tokens)

    def layout(self, run: ParallelConfig) -> ParallelConfig:
        """The layout of this stage. run: the layout of the run, which the stage overrides in part."""
        return replace(run, **self.parallel)


@dataclass
class ScheduleConfig:
    """Everything that changes over the run, as functions of tokens seen."""

    # Stages by name, in the order in which they run.
    stages: dict[str, StageConfig]
    # RoPE base of the model that the first stage starts from, for the policies keep, ntk and ramp; 0: none.
    # model=from_huggingface sets it.
    start_base: NotNegative = 0.0
    # Context length in tokens of the model that the first stage starts from, for the policy ntk; 0: none.
    # model=from_huggingface sets it.
    start_length: Tokens = 0
    # Learning rate over the whole run, for the stages that set none of their own.
    learning_rate: LearningRateConfig = field(default_factory=LearningRateConfig)


@dataclass
class SpikesConfig:
    """How loss spikes are detected and handled: see train/health/spikes.py."""

    # Action after a loss spike. ignore: none. stop: end the run. skip: drop the step. rollback: return to an earlier
    # checkpoint and leave out the data in between. stop and skip act before the weights change.
    action: Literal["ignore", "stop", "skip", "rollback"] = "ignore"
    # Number of earlier steps of the stage whose losses a loss is compared with; compares from half of them on.
    window: Annotated[int, Ge(8)] = 128
    # A loss is a spike if it is more than this many robust standard deviations above the median of the earlier losses.
    threshold: AtLeastOne = 6.0
    # Number of steps in a row with a spike, or a loss that is not finite, before a rollback.
    patience: Annotated[int, Ge(1)] = 3
    # Most rollbacks in the whole run; the run stops when one more is needed.
    max_rollbacks: Annotated[int, Ge(1)] = 3


@dataclass
class TrainConfig:
    """Precision, device, recomputation, and what to do about bad steps."""

    # Dtype of weights and activations; master weights and gradients are always float32.
    precision: Literal["float32", "bfloat16"] = "float32"
    # Device to compute on; auto: a GPU if there is one, else the CPU.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # Optimizer steps after which the run stops, counted from the start of the run; null: at the end of the schedule.
    # Stages and learning rate keep their length in tokens.
    max_steps: Annotated[int, Ge(1)] | None = None
    # What a layer keeps for its backward; the rest is recomputed. everything: no recomputation. attention: its input
    # and the output of attention. input: its input. input_on_cpu: its input, in host memory. tiles: like input_on_cpu,
    # and feed-forwards run on tiles of tokens.
    keep_for_backward: Literal["everything", "attention", "input", "input_on_cpu", "tiles"] = (
        "everything"
    )
    # Applies keep_for_backward to this many layers, evenly spread; the others keep everything. null: all layers.
    recompute_layers: Annotated[int, Ge(1)] | None = None
    # Whether torch.compile compiles the code between attention calls; auto: on a GPU, where the layout allows it.
    compile_regions: Literal["auto", "always", "never"] = "auto"
    # Weight of the z-loss, the squared log-sum-exp of the logits; 0: no z-loss.
    z_loss: NotNegative = 0.0
    # LongCE, for example {window_tokens: 4096, cap: 5}: tokens that need a long context weigh more in the loss, which
    # takes a second forward; null: all tokens weigh the same.
    long_ce: LongCeConfig | None = None
    # Peak FLOP/s of one device, from which `mfu` is computed; null: from the data sheet, by the name of the device.
    peak_flops_per_second: Annotated[float, Gt(0), Lt(inf)] | None = None
    # Whether to use deterministic kernels only, so that the same run gives the same bits; slower on GPUs.
    deterministic: bool = False
    # Most optimizer steps that the run may skip because of a loss or gradient that is not finite, or a spike; the run
    # stops at the next one. 0: it stops at the first.
    max_skipped_steps: Annotated[int, Ge(0)] = 0
    # How loss spikes, losses far above those before, are detected and handled.
    spikes: SpikesConfig = field(default_factory=SpikesConfig)


@dataclass
class CheckpointConfig:
    """When to save checkpoints, how many to keep, where to resume."""

    # Optimizer steps between two checkpoints inside a stage. auto: a hundredth of the schedule's steps, at least 1 and
    # at most 500; `--print` and config.yaml show the number. 0: only at the end of every stage and of the run.
    every_steps: Annotated[int, Ge(0)] | Literal["auto"] = "auto"
    # Number of newest checkpoints that stay on disk; older ones are removed.
    keep: Annotated[int, Ge(1)] = 2
    # Where the run starts. auto: at its own newest checkpoint, if it has one. never: at step 0. A path: at that
    # checkpoint (its folder, a run's or an imported model's), unless the run has a checkpoint of its own.
    resume: Annotated[str, PathMark(frozenset({"auto", "never"}))] = "auto"
    # Differences between the checkpoint and the configuration that are accepted; the start fails on any other.
    allow_changes: list[
        Literal[
            "rope_base",
            "rope_scaling",
            "position",
            "position_scale",
            "window",
            "sequence_length",
            "document_rules",
            "data",
            "tokenizer",
        ]
    ] = field(default_factory=list)


@dataclass
class PreflightConfig:
    """Checks on every rank before the first step: see docs/reliability.md."""

    # Whether to check hosts, files and links before the first step.
    enabled: bool = True
    # Whether to test every process group: correct sums, speed, slow links.
    links: bool = True
    # Size in bytes of the timed messages; 0: 4 MiB between CPUs, 64 MiB between GPUs.
    link_bytes: Annotated[int, Ge(0)] = 0
    # A link is reported if it is more than this many times slower than the median of its kind.
    slow_link: AtLeastOne = 3.0
    # Timeout in seconds of one test transfer; on a timeout the group counts as broken and the run does not start.
    timeout_seconds: AtLeastOne = 20.0
    # Timeout in seconds for each of three phases: rendezvous, creating process groups, checking hosts.
    join_seconds: AtLeastOne = 300.0
    # Largest difference in seconds allowed between a host's clock and the main rank's.
    clock_seconds: NotNegative = 2.0


@dataclass
class WandbConfig:
    """Weights & Biases: one W&B run for the whole run, with the same id after a resume."""

    # Where W&B data goes. offline: into the run's folder. online: to the server too. disabled: nowhere.
    mode: Literal["offline", "online", "disabled"] = "offline"
    # Name of the W&B project.
    project: str = "ropewalk"
    # User or team that owns the W&B project; null: the account's default.
    entity: str | None = None


@dataclass
class LoggingConfig:
    """Log lines, comparison of ranks, and Weights & Biases."""

    # Weights & Biases (W&B).
    wandb: WandbConfig = field(default_factory=WandbConfig)
    # Seconds between two lines of log.txt, and of the console if it is no terminal with a progress bar.
    console_seconds: NotNegative = 10.0
    # Optimizer steps between two comparisons of the ranks' speeds; 0: no comparison.
    straggler_steps: Annotated[int, Ge(0)] = 20
    # A rank is reported as slow if its test product takes more than this many times the median, twice in a row.
    straggler_factor: AtLeastOne = 1.5
    # Optimizer steps between two measurements of how much output gates vary over tokens; 0: no measurement.
    gate_steps: Annotated[int, Ge(0)] = 20
    # Optimizer steps between two measurements of gradients, updates, activations and attention logits by layer; 0: no
    # measurement.
    layer_steps: Annotated[int, Ge(0)] = 200


@dataclass
class RunConfig:
    """A whole run."""

    # Name of the run, and of its folder in paths.outputs.
    run_name: str
    # Stages and learning rate: everything that changes over the run.
    schedule: ScheduleConfig
    # Random seed of the initial weights; data.seed takes it too unless it is given.
    seed: Annotated[int, Ge(0)] = 0
    # Where files go.
    paths: PathsConfig = field(default_factory=PathsConfig)
    # Shape and recipe of the model.
    model: ModelConfig = field(default_factory=ModelConfig)
    # Where documents come from and how they are packed.
    data: DataConfig = field(default_factory=DataConfig)
    # How ranks share the work of a step: axes, ZeRO stage, timeouts.
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    # Optimizer and its settings.
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    # Precision, device, recomputation, and what to do about bad steps.
    train: TrainConfig = field(default_factory=TrainConfig)
    # Held-out loss by position in the document, accuracy, long-context tasks, and LongPPL.
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    # When to save checkpoints, how many to keep, where to resume.
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    # Log lines, comparison of ranks, and Weights & Biases.
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    # Checks on every rank before the first step.
    preflight: PreflightConfig = field(default_factory=PreflightConfig)


def run_folder(config: RunConfig) -> Path:
    """Returns the folder that the run writes to: paths.outputs/run_name."""
    return Path(config.paths.outputs) / config.run_name
