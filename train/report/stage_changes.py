"""What a stage changes in attention, in words, from the configuration that the run kept."""

from train.report.rows import Row, finite_value, mapping
from train.report.units import whole_number


def changes_in_words(plan: Row) -> str:
    """Returns what a stage sets for kinds of layers: "full_nope: window 32 to 1,024, no rotation".

    plan: the stage of the configuration; any key may be absent or hold a value of any type.
    """
    kinds = mapping(plan, "kinds")
    found = [f"{name}: {words}" for name in kinds if (words := _of_kind(mapping(kinds, name)))]
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
