"""What does a length cost? Tables of the key/value cache and of operations, by kind of layer."""

from train.advise.advice import Advice
from train.advise.cost import Cost
from train.advise.tables import Question, Table, flops_in_words
from train.report.units import percent, size, whole_number


def cost_question(found: Advice) -> Question:
    """Returns the question about cost."""
    return Question(
        "Cost", "What does a length cost?", _answer(found), [_cache(found), _operations(found)]
    )


def _answer(found: Advice) -> list[str]:
    ends = {found.costs[-1].length, min(found.subject.longest, found.costs[-1].length)}
    return [_about(cost) for cost in found.costs if cost.length in ends]


def _about(cost: Cost) -> str:
    said = f"At {whole_number(cost.length)} tokens the cache of one sequence takes {size(cost.cache_bytes)}"
    if cost.cache_bytes < cost.full_cache_bytes:
        said += (
            f", {percent(cost.cache_bytes / cost.full_cache_bytes)} of what full attention in every layer would take, "
            f"and training takes {percent(cost.forward_flops / cost.full_forward_flops)} of its operations"
        )
    shares = sorted(cost.kinds, key=lambda kind: -kind.cache_bytes)
    each = [f"{kind.kind} {percent(kind.cache_bytes / cost.cache_bytes)}" for kind in shares]
    return f"{said}. Shares of the cache: {', '.join(each)}." if len(each) > 1 else f"{said}."


def _cache(found: Advice) -> Table:
    kinds = [kind.kind for kind in found.costs[0].kinds]
    several = kinds if len(kinds) > 1 else []

    def cells(cost: Cost) -> list[str]:
        each = [size(kind.cache_bytes) for kind in cost.kinds] if several else []
        hybrid = cost.cache_bytes < cost.full_cache_bytes
        return [
            whole_number(cost.length),
            *each,
            size(cost.cache_bytes),
            size(cost.full_cache_bytes) if hybrid else "",
            f"{cost.full_cache_bytes / cost.cache_bytes:.2f}x" if hybrid else "",
            size(cost.grows_by) if cost.grows_by else "0 B",
        ]

    return Table(
        "Key/value cache of one sequence, bfloat16",
        ["Length", *several, "All layers", "If all were full", "Saved", "Next token"],
        [cells(cost) for cost in found.costs],
        [
            "Keys and values of every layer, a layer with a window or chunk keeps that much only. Next token: the "
            "bytes that one token more adds. If all were full: the same model with full attention in every layer. "
            "Counted from the shape, no library's overhead."
        ],
    )


def _operations(found: Advice) -> Table:
    kinds = [kind.kind for kind in found.costs[0].kinds]
    several = kinds if len(kinds) > 1 else []

    def cells(cost: Cost) -> list[str]:
        each = (
            [flops_in_words(kind.attention_flops / cost.length) for kind in cost.kinds]
            if several
            else []
        )
        hybrid = cost.forward_flops < cost.full_forward_flops
        return [
            whole_number(cost.length),
            flops_in_words(cost.dense_flops / cost.length),
            *each,
            flops_in_words(cost.forward_flops / cost.length),
            percent(cost.attention_flops / cost.forward_flops),
            flops_in_words(cost.training_flops / cost.length),
            f"{cost.full_forward_flops / cost.forward_flops:.3f}x" if hybrid else "",
            flops_in_words(cost.decode_flops),
        ]

    return Table(
        "Operations per token, FLOP",
        [
            "Length",
            "Weights",
            *(f"{name}" for name in several),
            "Forward",
            "Attention",
            "Training",
            "Saved",
            "Decode",
        ],
        [cells(cost) for cost in found.costs],
        [
            "Mean over the tokens of one document of that length: products with weights, attention of each kind, "
            "and both; training is three forwards. Saved: how many times the operations full attention in every "
            "layer would take. Decode: one token at the end of the sequence, with the cache. Conventions: "
            "model/flops.py."
        ],
    )
