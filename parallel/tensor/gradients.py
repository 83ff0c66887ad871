"""Gradients and ownership of what several tensor ranks hold alike.

The residual stream is cut by tokens and attention by heads, so a rank's gradient of a norm's weight covers
its own tokens (or heads) only, and that of a key/value head its own query heads only. The true gradient is
the sum over the ranks that hold the parameter, where its row in the table of parameters says `summed`:

    every norm                                              all tensor ranks
    k_proj, v_proj with fewer key/value heads than ranks    the replicas of the head, neighbouring ranks

A hook on the parameter makes it, once per backward, before anything else sees the gradient. It belongs to
the node that accumulates the gradient, so it also runs where weight gradients are asked for by themselves
(zero-bubble pipelines), and before ZeRO's own reduction in all stages.
"""

from functools import partial

from model.parameters import role_of
from model.transformer import Transformer
from parallel.collectives import sum_over_replicas
from parallel.mesh import AxisGroup
from parallel.tensor.cut import cut_of


def sum_replicated_gradients(model: Transformer, group: AxisGroup) -> None:
    """Hook every replicated parameter of a cut model. Call it once the parameters are final (materialised).

    Sums are taken in float32 or float64; all replicas get the same bits.
    """
    for name, parameter in model.named_parameters():
        replicas = cut_of(name, model.config, group.rank, group.size).replicas
        if replicas > 1 and role_of(name).summed:
            hook = partial(sum_over_replicas, group=group, replicas=replicas)
            parameter.register_hook(hook)  # type: ignore[no-untyped-call]


def mark_owners(model: Transformer, group: AxisGroup) -> None:
    """Say on each parameter whether this rank counts it in the global gradient norm.

    DeepSpeed adds up a parameter where its `tensor_model_parallel` is true, and besides on tensor rank 0
    (model-parallel rank 0 in ZeRO-3) whatever is not marked. So the mark is true on exactly one owner of
    each part; rank 0 owns every part it holds, hence the second rule adds nothing. Call it once the
    parameters are final (materialised).
    """
    for name, parameter in model.named_parameters():
        cut = cut_of(name, model.config, group.rank, group.size)
        parameter.tensor_model_parallel = cut.is_owner  # type: ignore[attr-defined]
