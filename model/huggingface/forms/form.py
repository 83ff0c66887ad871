"""The row of a form, and functions that make rows: whether a model has the form, and how to give it to one."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from model.config import ModelConfig
from model.layer_pattern import KindConfig, LayerSpec, expand_pattern, layer_kind, layer_kinds

# What a kind of layer is called beside others.
KINDS: Mapping[str, str] = {
    "full_rope": "full RoPE",
    "full_nope": "full NoPE",
    "window_rope": "windowed RoPE",
    "window_nope": "windowed NoPE",
}
Has = Callable[[ModelConfig], bool]
Give = Callable[[ModelConfig], Iterable[ModelConfig]]


@dataclass(frozen=True)
class Form:
    """A form that a model has or does not have.

    name: in words. key: how a user asks for it. has: whether a model has it. give: models that have it and are
    otherwise as the given one, whose layers are of some of KINDS; none where the form does not fit that model.
    """

    name: str
    key: str
    has: Has
    give: Give


def some(says: Callable[[LayerSpec], bool]) -> Has:
    """Whether a layer is as `says`."""
    return lambda model: any(says(spec) for spec in expand_pattern(model))


def changed(model: ModelConfig, kinds: Iterable[str], **fields: Any) -> ModelConfig:
    """The model with these fields in these kinds of layers."""
    new = {name: replace(model.kinds.get(name, KindConfig()), **fields) for name in kinds}
    return replace(model, kinds={**model.kinds, **new})


def rotary(model: ModelConfig) -> list[str]:
    """The kinds of layers of a model that rotate."""
    return [name for name in dict.fromkeys(model.layer_pattern) if layer_kind(model, name).rotary]


def of_model(name: str, **fields: Any) -> Form:
    """A form that consists of values of the model's fields."""

    def has(model: ModelConfig) -> bool:
        return all(getattr(model, field) == value for field, value in fields.items())

    return Form(name, _told(fields), has, lambda model: [replace(model, **fields)])


def of_layers(name: str, says: Callable[[LayerSpec], bool], **fields: Any) -> Form:
    """A form of attention in any layer, given by the model's fields to all."""
    return Form(name, _told(fields), some(says), lambda model: [replace(model, **fields)])


def number(name: str, field: str, value: float, plain: float) -> Form:
    """A factor or cap of the model: any value other than `plain`; tried with `value`."""
    fields: dict[str, Any] = {field: value}
    return Form(
        name,
        f"model.{field}",
        lambda model: bool(getattr(model, field) != plain),
        lambda model: [replace(model, **fields)],
    )


def in_some(name: str, field: str) -> Form:
    """A field of attention that layers of one kind have and layers of another have not."""

    def give(model: ModelConfig) -> list[ModelConfig]:
        first, *others = dict.fromkeys(model.layer_pattern)
        other = not getattr(model, field)
        return [changed(model, [first], **{field: other})] if others else []

    def has(model: ModelConfig) -> bool:
        return len({getattr(spec, field) for spec in layer_kinds(model).values()}) > 1

    return Form(name, f"model.kinds.NAME.{field}", has, give)


def _told(fields: Mapping[str, Any]) -> str:
    values = {field: str(value).lower() for field, value in fields.items()}
    return " ".join(f"model.{field}={value}" for field, value in values.items())
