"""Kinds of layers that a model mixes, windows of different lengths, attention chunks."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

from model.config import ModelConfig
from model.huggingface.forms.form import KINDS, Form, some
from model.layer_pattern import KindConfig, expand_pattern


def patterns(sizes: range = range(1, len(KINDS) + 1)) -> Iterator[tuple[str, ...]]:
    """Every set of the four kinds of layers with a number of kinds in `sizes`."""
    for size in sizes:
        yield from combinations(KINDS, size)


def _kinds_of(model: ModelConfig) -> frozenset[str]:
    return frozenset(
        f"{'full' if spec.window is None else 'window'}_{'nope' if spec.rope is None else 'rope'}"
        for spec in expand_pattern(model)
        if spec.chunk is None
    )


def _mixed(kinds: tuple[str, ...]) -> Form:
    alone = " alone" if len(kinds) == 1 else ""
    return Form(
        f"{' and '.join(KINDS[kind] for kind in kinds)} layers{alone}",
        f"model.layer_pattern=[{','.join(kinds)}]",
        lambda model: _kinds_of(model) == frozenset(kinds),
        lambda model: [replace(model, layer_pattern=list(kinds))],
    )


def _has_many(model: ModelConfig) -> bool:
    return len(_kinds_of(model)) > 2


def _give_many(model: ModelConfig) -> list[ModelConfig]:
    return [replace(model, layer_pattern=list(kinds)) for kinds in patterns(range(3, 5))]


def _has_two_windows(model: ModelConfig) -> bool:
    return len({spec.window for spec in expand_pattern(model) if spec.window}) > 1


def _give_two_windows(model: ModelConfig) -> Iterator[ModelConfig]:
    for kind in ("window_rope", "window_nope"):
        if kind in model.layer_pattern:
            near = {"near": KindConfig(like=kind, window=model.window // 2)}
            yield replace(_with_first(model, "near"), kinds={**model.kinds, **near})


def _with_first(model: ModelConfig, kind: str) -> ModelConfig:
    pattern = [kind, *model.layer_pattern]
    return replace(model, layer_pattern=pattern, num_layers=max(len(pattern), model.num_layers))


LAYERS: tuple[Form, ...] = (
    *(_mixed(kinds) for kinds in patterns(range(1, 3))),
    Form("three or four of these kinds", "model.layer_pattern", _has_many, _give_many),
    Form(
        "windows of different lengths",
        "model.kinds.NAME.window",
        _has_two_windows,
        _give_two_windows,
    ),
    Form(
        "attention chunks",
        "model.layer_pattern=[chunk_rope]",
        some(lambda spec: spec.chunk is not None),
        lambda model: [_with_first(model, "chunk_rope")],
    ),
)
