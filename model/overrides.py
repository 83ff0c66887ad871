"""Values of a kind of layer that replace the model's (`OVERRIDES`), and those that no layer reads."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from model.layer_pattern import OVERRIDES, LayerSpec, PatternSource, layer_kinds

# Fields that not every layer reads: which layers do, and what the others lack.
READ: Mapping[str, tuple[Callable[[LayerSpec], bool], str]] = MappingProxyType(
    {
        "qk_norm_at": (
            lambda spec: spec.qk_norm and spec.rope is not None,
            "a rotation and a norm of queries and keys",
        ),
        "qk_norm_weight": (lambda spec: spec.qk_norm, "a norm of queries and keys"),
        "gate_over": (lambda spec: spec.gate != "none", "a gate"),
    }
)


def reads(spec: LayerSpec, field: str) -> bool:
    """Whether the value of `field` (one of `OVERRIDES`) changes what a layer of this specification computes."""
    return READ[field][0](spec) if field in READ else True


def is_inherited(config: PatternSource, field: str) -> bool:
    """Whether some layer reads the model's own value of `field` (one of `OVERRIDES`).

    Raises KeyError for an unknown kind.
    """
    own = {name for name, kind in config.kinds.items() if getattr(kind, field) is not None}
    return any(name not in own and reads(spec, field) for name, spec in layer_kinds(config).items())


def override_problems(config: PatternSource) -> list[str]:
    """Returns every value of a kind that is the model's anyway or that its layers do not read, one line each.

    Raises KeyError for an unknown kind.
    """
    found = []
    for name, spec in layer_kinds(config).items():
        if name not in config.kinds:
            continue
        for field in OVERRIDES:
            value = getattr(config.kinds[name], field)
            key = f"model.kinds.{name}.{field}={value}: has no effect"
            if value is not None and value == getattr(config, field):
                found.append(f"{key}, it is that of model.{field}; drop it")
            elif value is not None and not reads(spec, field):
                found.append(f"{key} without {READ[field][1]}; drop it")
    return found
