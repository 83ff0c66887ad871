"""What is asked about: a model, and how it attends at the end of each stage, from whatever the user names.

    KEY=VALUE ...                      the stages of a run                       (train/configuration)
    outputs/RUN, config.yaml           the stages of that run
    a checkpoint, an imported model    the model as trained so far               state.json
    a Hugging Face model, config.json  the model as released                     (model/huggingface)

No tensor is read, and torch is not imported.
"""

from collections import Counter
from dataclasses import dataclass, replace

from model.at_step import AtStep
from model.config import ModelConfig
from model.layer_pattern import LayerSpec, expand_pattern
from model.position.advice.frequencies import head_radians
from model.position.ntk import NtkRope, ntk_base
from model.position.rope import UNSCALED, Rope
from model.position.settings import Frequencies, RopeSettings, Values
from train.schedule.stages import Schedule


@dataclass(frozen=True)
class Kind:
    """One kind of layer at the end of a stage.

    layers: their number. sees: the largest distance in tokens, the token itself included, that a token of these layers
    sees in the stage: the sequence length, or the window or chunk if that is smaller. base: the RoPE base; 0 where
    layers do not rotate. pretrained: base and length before the first stage or before scaling, which the scaling laws
    start from.
    """

    spec: LayerSpec
    layers: int
    sees: int
    base: float
    pretrained: tuple[float, int]
    frequencies: Frequencies | None

    @property
    def name(self) -> str:
        """The name of the kind in the pattern."""
        return self.spec.kind

    @property
    def rope(self) -> RopeSettings:
        """How these layers rotate; they must."""
        assert self.spec.rope is not None, "only rotary layers are asked"
        return self.spec.rope


@dataclass(frozen=True)
class Moment:
    """The model at the end of a stage.

    length: the sequence length, or under PoSE the one that positions reach. rows: sequences of the stage; 0: unknown.
    """

    stage: str
    model: ModelConfig
    length: int
    kinds: tuple[Kind, ...]
    rows: int = 0

    @property
    def rotary(self) -> tuple[Kind, ...]:
        """The kinds whose layers rotate."""
        return tuple(kind for kind in self.kinds if kind.frequencies is not None)


@dataclass(frozen=True)
class Subject:
    """A model and its stages.

    name: of the run or the folder. source: what was read, in words. note: what the user should know of it; may be "".
    """

    name: str
    source: str
    moments: tuple[Moment, ...]
    note: str = ""

    @property
    def model(self) -> ModelConfig:
        """The model at the end of the last stage."""
        return self.moments[-1].model

    @property
    def longest(self) -> int:
        """The longest sequence length of all stages, in tokens."""
        return max(moment.length for moment in self.moments)


def of_schedule(name: str, source: str, schedule: Schedule, start: tuple[float, int]) -> Subject:
    """Returns the stages of a run; ramps of windows and bases have the value of the stage's last step.

    start: base and length in tokens before the first stage.
    """
    moments = []
    for stage in schedule.stages:
        point = schedule.at_end_of(stage)
        at = replace(point.at, rope_base=stage.base.last)
        moment = moment_of(stage.name, point.model, at, start)
        rows = stage.num_steps * stage.shape.batch_tokens // stage.shape.sequence_length
        moments.append(replace(moment, rows=rows))
    return Subject(name, source, tuple(moments))


def of_model(
    name: str, source: str, model: ModelConfig, at: AtStep, start: tuple[float, int]
) -> Subject:
    """Returns a model as it is, without stages."""
    return Subject(name, source, (moment_of("as it is", model, at, start),))


def moment_of(stage: str, model: ModelConfig, at: AtStep, start: tuple[float, int]) -> Moment:
    """Returns the kinds of layers at one step. start: the schedule's base and the length before the first stage."""
    layers = Counter(spec.kind for spec in expand_pattern(model))
    kinds = tuple(
        _kind(spec, layers[name], at, model.head_dim, start) for name, spec in at.specs.items()
    )
    return Moment(stage, model, at.length, kinds)


def _kind(
    spec: LayerSpec, layers: int, at: AtStep, head_dim: int, start: tuple[float, int]
) -> Kind:
    sees = min(spec.reach.limit or at.length, at.length)
    if spec.rope is None:
        return Kind(spec, layers, sees, 0.0, start, None)
    base, length = spec.rope.base_of(start[0]), start[1]
    # A method that scales says the length before it.
    length = getattr(spec.rope, "original_length", 0) or length
    return Kind(
        spec,
        layers,
        sees,
        spec.rope.base_of(at.rope_base),
        (base, min(spec.reach.limit or length, length)),
        spec.rope.frequencies(at.rope_base, head_dim, length=at.length),
    )


@dataclass(frozen=True)
class Case:
    """A kind of rotary layer as it is in one or more stages, in order. length: the sequence length of the last one."""

    stages: tuple[str, ...]
    kind: Kind
    head_dim: int
    length: int
    # Whether its name alone does not say which case it is.
    one_of_several: bool = False

    @property
    def label(self) -> str:
        """Its name, unlike that of other cases of the model."""
        if not self.one_of_several:
            return self.kind.name
        first, last = self.stages[0], self.stages[-1]
        return f"{self.kind.name}, {first if first == last else f'{first} to {last}'}"

    @property
    def radians(self) -> Values:
        """Radians per token of the pairs that rotate, (P,)."""
        assert self.kind.frequencies is not None, "only rotary layers are cases"
        return self.kind.frequencies.radians_P

    @property
    def width(self) -> int:
        """Dimensions that the exponents run over."""
        return self.kind.rope.width(self.head_dim)

    @property
    def is_plain(self) -> bool:
        """Whether the whole head rotates, by nothing but a base."""
        return replace(self.kind.rope, base=0.0) == UNSCALED

    @property
    def plain_base(self) -> float | None:
        """The base that alone makes these frequencies; None: they are scaled otherwise."""
        rope = self.kind.rope
        if isinstance(rope, NtkRope):
            return ntk_base(self.kind.base, rope.factor, self.width)
        return self.kind.base if isinstance(rope, Rope) else None

    @property
    def method(self) -> str:
        """How they rotate, in words."""
        rope = self.kind.rope
        words = [] if rope.scaling == "none" else [rope.scaling]
        factor = getattr(rope, "factor", 1.0)
        words += [f"x{factor:g}"] if factor != 1.0 else []
        if rope.rotary_share != 1.0:
            words.append(f"{rope.partial} {rope.rotary_share:g}")
        words += ["resonance"] if rope.resonance else []
        words += ["FoPE"] if rope.fourier is not None else []
        return " ".join(words) or "plain"

    @property
    def full(self) -> bool:
        """Whether these layers see the whole document."""
        return self.kind.spec.reach.limit is None

    def head_radians(self, base: float = 0.0) -> Values:
        """Radians per token of all pairs of a head, (head_dim / 2,); 0 for a pair that stands still.

        base: another base; 0: its own.
        """
        return head_radians(
            replace(self.kind.rope, base=0.0),
            base or self.kind.base,
            self.head_dim,
            length=self.length,
            trained=self.kind.sees,
        )


def cases_of(subject: Subject) -> list[Case]:
    """Returns the kinds of rotary layers of all stages; a kind that stays as it is stands there once."""
    found: dict[tuple[object, ...], Case] = {}
    for moment in subject.moments:
        for kind in moment.rotary:
            assert kind.frequencies is not None, "a rotary kind"
            same = (kind.name, kind.sees, kind.base, kind.frequencies.radians_P.tobytes())
            before = found[same].stages if same in found else ()
            stages = (*before, moment.stage)
            found[same] = Case(stages, kind, moment.model.head_dim, moment.length)
    names = Counter(case.kind.name for case in found.values())
    return [replace(case, one_of_several=names[case.kind.name] > 1) for case in found.values()]
