"""What a stage changes in attention and in groups of parameters, in words, from the configuration that the run kept."""

from train.report.rows import Row, finite_value, mapping
from train.report.units import whole_number

_FACTORS = (("learning_rate_factor", "learning rate"), ("weight_decay_factor", "weight decay"))


def changes_in_words(plan: Row) -> str:
    """Returns what a stage sets for kinds of layers: "full_nope: window 32 to 1,024, no rotation".

    plan: the stage of the configuration; any key may be absent or hold a value of any type.
    """
    kinds = mapping(plan, "kinds")
    found = [f"{name}: {words}" for name in kinds if (words := _of_kind(mapping(kinds, name)))]
    return "; ".join(found)


def groups_in_words(config: Row, plan: Row) -> str:
    """Returns how groups of parameters train in a stage: "rest: frozen; ends: 0.1 x learning rate".

    config, plan: the configuration and the stage in it; any key may be absent or hold a value of any type.
    """
    groups, changes = mapping(mapping(config, "optimizer"), "groups"), mapping(plan, "groups")
    found = []
    for name in groups:
        given = {k: v for k, v in mapping(changes, name).items() if v is not None}
        settings = {**mapping(groups, name), **given}
        words = [
            f"{value:g} x {called}"
            for key, called in _FACTORS
            if (value := finite_value(settings, key)) not in (None, 1.0)
        ]
        if settings.get("frozen") is True:
            words = ["frozen"]
        if words:
            found.append(f"{name}: {', '.join(words)}")
    return "; ".join(found)


def _of_kind(change: Row) -> str:
    words = []
    if window := _window(change):
        words.append(f"window {window}")
    if position := change.get("position"):
        words.append("no rotation" if position == "none" else "rotation")
    if rope := mapping(change, "rope"):
        words.append(_method(rope, "scaling", "plain RoPE"))
    if scale := mapping(change, "position_scale"):
        words.append(f"queries scaled: {_method(scale, 'scale', 'none')}")
    return ", ".join(words)


def _window(change: Row) -> str:
    ramp = mapping(change, "window")
    if not ramp:
        keys = finite_value(change, "window")
        return whole_number(keys) if keys else ""
    start, end = finite_value(ramp, "start"), finite_value(ramp, "end")
    return f"from {whole_number(start or 0)}" + (f" to {whole_number(end)}" if end else " on")


def _method(settings: Row, name: str, none: str) -> str:
    """Returns the name of a method with its factor or its base."""
    method = settings.get(name)
    words = none if method in (None, "", "none") else str(method)
    factor, base = finite_value(settings, "factor"), finite_value(settings, "base")
    words += f" {factor:g}" if factor and factor != 1.0 else ""
    return words + (f", base {whole_number(base)}" if base else "")
