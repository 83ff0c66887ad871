"""The table of a family, and the conversion of a config.json in both directions.

    config.json  --read-->   ModelConfig, base of the rotation, context length
    ModelConfig  --write-->  config.json

A row maps a key to fields of `ModelConfig`, or lists the values of a key that we can express. A field or key without a
row must have its default: reading raises for a key that would change the model, writing for a field that the family
does not have.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from model.config import ModelConfig
from model.huggingface import foreign_keys, layer_bases, rope_export, rope_fields
from model.huggingface.key_types import wrong_keys, wrong_types
from model.huggingface.layer_fields import in_four_kinds, rotated_widths
from model.huggingface.links import Link, half_split, same
from model.huggingface.query_scale import read_scale, write_scale
from model.huggingface.refusal import CannotExpress
from model.huggingface.rope_rules import ORDINARY, RopeRules
from model.layer_pattern import KindConfig, expand_pattern
from model.parameters import role_of
from model.position.methods import RopeMethod
from model.position.rope import Rope
from model.position.scales.none import NoScale

Json = dict[str, Any]
# Fields without a row: those of the pattern, those of rope_fields, and those that do not change the model's function.
_ELSEWHERE = {"layer_pattern", "window", "chunk", "kinds", "attention_backend", "init_std"}


@dataclass(frozen=True)
class Row:
    """One key of a config.json.

    theirs: the key. default: the family's value where the key is absent or null, or a function of the whole
    config. ours: the fields of `ModelConfig` that it sets, all to the same value. only: for a key without a
    field (no `ours`), the accepted values; export writes the first. read: converts their value (and config) to
    ours. write: converts our value (and config) to theirs.
    """

    theirs: str
    default: Any
    ours: tuple[str, ...] = ()
    only: tuple[Any, ...] = ()
    read: Callable[[Any, Mapping[str, Any]], Any] = lambda value, _: value
    write: Callable[[Any, ModelConfig], Any] = lambda value, _: value

    def value(self, config: Mapping[str, Any]) -> Any:
        """The value of this key in a config.json, or its default."""
        value = config.get(self.theirs)
        if value is None:
            return self.default(config) if callable(self.default) else self.default
        return value


@dataclass(frozen=True)
class Imported:
    """The result of `Family.read`. rope_base: base of layers that follow the schedule. context_length: in tokens."""

    model: ModelConfig
    rope_base: float
    context_length: int


def no_layers(config: Mapping[str, Any]) -> Json:  # noqa: ARG001
    """Layers of a family with full attention and rotation in every layer."""
    return {"layer_pattern": ["full_rope"]}


@dataclass(frozen=True)
class Family:
    """One architecture of `transformers`.

    recipe: fields of `ModelConfig` that all its models share. rows: the other fields. kinds: those of our layer
    kinds that it can express. read_layers, write_layers: convert the pattern. default_base: default of rope_theta;
    a mapping by kind where the family has one rotation per kind of layer. halves: whether heads are rotated
    half-split. modules: names of our modules of a layer, mapped to theirs. special: links of a layer (by its index)
    that `modules` cannot express; the parameters in their `ours` need no other link.
    """

    model_type: str
    architecture: str
    recipe: Mapping[str, Any]
    rows: Sequence[Row]
    kinds: frozenset[str]
    default_base: float | Mapping[str, float]
    modules: Mapping[str, str]
    read_layers: Callable[[Mapping[str, Any]], Json] = no_layers
    write_layers: Callable[[ModelConfig], Json] = lambda config: {}  # noqa: ARG005
    halves: bool = True
    # Whether `transformers` requires hidden_size to be a multiple of the number of heads, although head_dim is given.
    whole_heads: bool = False
    # The key with the base of every layer, 0 for one that does not rotate, if the family has one; see `layer_bases`.
    bases: str = ""
    # Whether transformers 4.57 lacks it.
    new_in_5: bool = False
    # Default of `rope_parameters`.
    default_rope: Mapping[str, Any] = field(default_factory=dict)
    # What it does with the keys of the rotation.
    rope_rules: RopeRules = ORDINARY
    special: Callable[[ModelConfig, int], Sequence[Link]] = lambda model, layer: ()  # noqa: ARG005
    # Keys that read_layers reads; `carried` leaves them out, since write_layers writes them.
    layer_keys: Sequence[str] = field(default=("layer_types", "sliding_window"))
    # Keys that other programs read and transformers does not; they are added to an unchanged config.json without them.
    published: Sequence[str] = ()
    # Keys that we read and transformers does not: a config.json with one of them is rewritten, not copied.
    unread: Sequence[str] = ()
    # Keys that may be a text here, and are whole numbers in the other families.
    texts: Sequence[str] = ()
    # The model_type of another family: models imported from it that it cannot express are exported as this family.
    heir_of: str = ""

    def read(self, config: Mapping[str, Any]) -> Imported:
        """The model that a config.json describes. The caller checks the rules between its fields.

        Raises:
            CannotExpress: it lists every reason.
        """
        reasons = self._strange(config)
        if reasons:
            raise CannotExpress(reasons)
        values: Json = dict(self.recipe)
        for row in self.rows:
            value = row.value(config)
            if row.only and value not in row.only:
                allowed = " or ".join(map(str, row.only))
                reasons.append(f"config.json: {row.theirs}={value}: can only be {allowed}")
            for name in row.ours:
                values[name] = row.read(value, config)
        bases: dict[str, float] = {}
        try:
            values |= self.read_layers(config)
            pattern = values.get("layer_pattern", [])
            ropes = self._read_ropes(config, pattern)
            kinds = {name: self._kind(name, config, rope) for name, (_, rope) in ropes.items()}
            values["kinds"] = {
                name: kind
                for name, kind in kinds.items()
                if name in pattern and kind != KindConfig()
            }
            bases = {name: base for name, (base, _) in ropes.items()}
        except CannotExpress as error:
            reasons += error.reasons
        reasons += wrong_types(values)
        if reasons:
            raise CannotExpress(reasons)
        model = ModelConfig(**values)
        windowed = "full_rope" not in model.layer_pattern and "window_rope" in model.layer_pattern
        base = bases["window_rope" if windowed else "full_rope"]
        return Imported(model, base, int(config.get("max_position_embeddings") or 0))

    def write(self, model: ModelConfig, rope_base: float, context_length: int) -> Json:
        """The config.json of a model, without keys that do not describe the model (tokens, dtype).

        Raises:
            CannotExpress: it lists every reason.
        """
        given = model
        model = in_four_kinds(model, bases_differ=bool(self.bases))
        reasons = self._foreign(model)
        written: Json = {"architectures": [self.architecture], "model_type": self.model_type}
        for row in self.rows:
            if row.only:
                written[row.theirs] = row.only[0]
            found = {getattr(model, name) for name in row.ours}
            if len(found) > 1:
                says = " and ".join(f"model.{name}={getattr(model, name)}" for name in row.ours)
                reasons.append(f"{says}: one key for both, {row.theirs}")
            elif row.ours:
                value = row.write(found.pop(), model)
                if written.setdefault(row.theirs, value) != value:
                    says = f"model.{row.ours[0]}={getattr(model, row.ours[0])}"
                    reasons.append(
                        f"{says}: {self.model_type} ties it to {row.theirs}={written[row.theirs]}"
                    )
        try:
            written |= self._write_ropes(model, rope_base, context_length)
            if self.bases:
                written[self.bases] = _base_of_every_layer(given, rope_base)
        except CannotExpress as error:
            reasons += error.reasons
        if reasons:
            raise CannotExpress(reasons)
        written |= self.write_layers(model)
        # Dynamic scaling has written the length that it counts from.
        return {"max_position_embeddings": context_length} | written

    def is_read_as_is(self, origin: Mapping[str, Any]) -> bool:
        """Whether both versions of transformers read this config.json of the family as we do, so that it is copied."""
        if origin.keys() & set(self.unread):
            return False
        scaling = origin.get("rope_scaling") or origin.get(rope_fields.NEW) or {}
        return scaling.get("rope_type", scaling.get("type")) not in self.rope_rules.other_names

    def carried(self, origin: Mapping[str, Any], context_length: int) -> Json:
        """The keys of an imported config.json that export writes again beside ours; see `foreign_keys.kept`."""
        ours = {row.theirs for row in self.rows} | set(rope_fields.KEYS) | set(self.layer_keys)
        return foreign_keys.kept(origin, ours, context_length)

    def links(self, model: ModelConfig, parameters: Sequence[str]) -> list[Link]:
        """Links that cover every tensor of both sides once; `parameters` are the names of all of ours.

        Raises:
            LookupError: the table of parameters has no row for a name.
            CannotExpress: the family has no tensor for a parameter.
        """
        links: dict[tuple[str, ...], Link] = {}
        covered: dict[str, Link] = {}
        for layer in range(model.num_layers):
            for link in self.special(model, layer):
                covered |= dict.fromkeys(link.ours, link)
                links[link.theirs] = link
        widths = rotated_widths(model)
        for name in parameters:
            if name in covered:
                continue
            role = role_of(name)  # raises for a name without a row, before the family is asked
            theirs = self._their_name(name)
            link = same(theirs, name)
            if role.turned and self.halves:
                link = half_split(theirs, name, model.head_dim, widths[int(name.split(".")[1])])
            links[link.theirs] = link
        return sorted(links.values(), key=lambda link: _place(link.theirs[0]))

    def _their_name(self, name: str) -> str:
        module, _, kind = name.rpartition(".")
        top = {"embedding": "model.embed_tokens", "norm": "model.norm", "lm_head": "lm_head"}
        if module in top:
            return f"{top[module]}.{kind}"
        _, layer, rest = module.split(".", 2) if module.startswith("layers.") else ("", "", module)
        if rest not in self.modules:
            raise CannotExpress([f"{name}: {self.model_type} has no such tensor"])
        return f"model.layers.{layer}.{self.modules[rest]}.{kind}"

    def _strange(self, config: Mapping[str, Any]) -> list[str]:
        """Messages about missing keys, keys of a wrong type, and keys that no family can express."""
        foreign = foreign_keys.refused(config, {row.theirs for row in self.rows})
        windows = foreign_keys.unread_windows(config, self.layer_keys)
        return wrong_keys(config, self.texts) + foreign + windows

    def _foreign(self, model: ModelConfig) -> list[str]:
        """Messages about layers and fields of the model that this family does not have."""
        strange = sorted(set(model.layer_pattern) - self.kinds)
        reasons = [
            f"model.layer_pattern has {kind}: {self.model_type} has no such layer"
            for kind in strange
        ]
        if self.whole_heads and model.hidden_size % model.num_heads:
            reasons.append(
                f"model.hidden_size={model.hidden_size}: {self.model_type} requires a multiple of "
                f"model.num_heads={model.num_heads}"
            )
        spoken = {name for row in self.rows for name in row.ours} | _ELSEWHERE
        for name, value in asdict(model).items():
            expected = self.recipe.get(name, getattr(_ORDINARY, name))
            if name not in spoken and value != expected:
                reasons.append(f"model.{name}={value}: {self.model_type} has only {expected}")
        return reasons

    def _kind(self, name: str, config: Mapping[str, Any], rope: RopeMethod) -> KindConfig:
        kind = KindConfig(like=layer_bases.like(name), rope=rope)
        if not self.rope_rules.scales_queries:
            return kind
        given = rope_fields.parameters_of(config, self.default_rope)
        return replace(kind, position_scale=read_scale(given, config))

    def _read_ropes(
        self, config: Mapping[str, Any], pattern: Sequence[str]
    ) -> dict[str, tuple[float, RopeMethod]]:
        """Base and scaling of `window_rope` and `full_rope` layers, also of a kind that is not in the pattern."""
        if isinstance(self.default_base, Mapping):
            ropes = rope_fields.read_by_kind(config, self.default_base, self.rope_rules)
            if {"window_rope", "full_rope"} <= set(pattern):  # windowed layers keep their base
                base, rope = ropes["window"]
                rope.base = base
        else:
            flat = rope_fields.read_flat(
                config, self.default_base, self.default_rope, self.rope_rules
            )
            ropes = {"window": flat, "full": flat}
            if self.bases:
                return self._read_bases(config, *flat)
        return {f"{kind}_rope": found for kind, found in ropes.items()}

    def _read_bases(
        self, config: Mapping[str, Any], base: float, rope: RopeMethod
    ) -> dict[str, tuple[float, RopeMethod]]:
        """As `_read_ropes`, of a family with a list of bases. base: where there is no list."""
        bases = layer_bases.listed_bases(config, self.bases, base)
        pattern = self.read_layers(config)["layer_pattern"]
        kinds = [pattern[layer % len(pattern)] for layer in range(len(bases))]
        unused: dict[str, tuple[float, RopeMethod]] = {"full_rope": (base, Rope())}
        return unused | layer_bases.rope_of_kinds(kinds, bases, rope)

    def _write_ropes(self, model: ModelConfig, rope_base: float, context_length: int) -> Json:
        """The keys of the rotation, for transformers 4 and 5."""
        kinds = [kind for kind in ("full", "window") if f"{kind}_rope" in model.layer_pattern]
        settings = {
            kind: model.kinds.get(f"{kind}_rope", KindConfig()) for kind in ("window", "full")
        }
        if len(kinds) == 1:  # the other kind, which the model has not, must not give another base
            settings = dict.fromkeys(settings, settings[kinds[0]])
        by_kind = {kind: self._write_kind(model, own, rope_base) for kind, own in settings.items()}
        if isinstance(self.default_base, Mapping):
            local = self.default_base["window"] != self.default_base["full"]
            return rope_export.written_by_kind(by_kind, kinds, local_base=local)
        found = [by_kind[kind] for kind in kinds] or [by_kind["full"]]
        if any(written != found[0] for written in found):
            raise CannotExpress(
                [
                    "model.kinds.window_rope.rope, model.kinds.full_rope.rope: "
                    f"{self.model_type} rotates all layers alike, these differ"
                ]
            )
        return rope_export.written_flat(found[0], context_length, self.rope_rules)

    def _write_kind(self, model: ModelConfig, kind: KindConfig, rope_base: float) -> Json:
        base = kind.rope.base_of(rope_base)
        written = rope_export.write(kind.rope, base, model.head_dim, self.rope_rules)
        if self.rope_rules.scales_queries:
            return write_scale(kind.position_scale, written)
        if kind.position_scale != NoScale():
            raise CannotExpress(
                [
                    f"model.kinds.NAME.position_scale={kind.position_scale.scale}: {self.model_type} does not scale "
                    "queries by position"
                ]
            )
        return written


_ORDINARY = ModelConfig()


def _base_of_every_layer(model: ModelConfig, rope_base: float) -> list[float]:
    """The base of every layer, 0 for one that does not rotate. rope_base: of layers on the schedule."""
    ropes = [spec.rope for spec in expand_pattern(model)]
    return [
        0.0
        if rope is None
        else rope_export.write(rope, rope.base_of(rope_base), model.head_dim)["rope_theta"]
        for rope in ropes
    ]


def _place(theirs: str) -> tuple[int, str]:
    """Sort key of their tensor names: embedding, layers in order, then norm and head."""
    parts = theirs.split(".")
    if "layers" in parts:
        return int(parts[parts.index("layers") + 1]), theirs
    return (-1 if "embed" in theirs else 10**9), theirs
