"""Gradients and owners of parameters that several tensor ranks hold.

The residual stream is cut by tokens and attention by heads, so a rank's gradient of a norm's weight covers
its own tokens (or heads) only, and that of a key/value head its own query heads only. The full gradient is
the sum over the ranks that hold the parameter, if its row in the table of parameters has `summed`:

    every norm                                              all tensor ranks
    k_proj, v_proj with fewer key/value heads than ranks    the replicas of the head, neighbouring ranks

A hook on the parameter computes the sum, once per backward, before any other code uses the gradient. The hook is on
the node that accumulates the gradient, so it also runs where weight gradients are computed separately (zero-bubble
pipelines), and before ZeRO's reduction in all stages.
"""

from functools import partial

from model.parameters import role_of
from model.transformer import Transformer
from parallel.collectives import sum_over_replicas
from parallel.mesh import AxisGroup
from parallel.tensor.cut import cut_of


def sum_replicated_gradients(model: Transformer, group: AxisGroup) -> None:
    """Registers the hook on every trained, replicated parameter of a cut model. Call it on materialised parameters.

    Sums are computed in float32, or float64 for float64; all replicas get the same bits.
    """
    for name, parameter in model.named_parameters():
        replicas = cut_of(name, model.config, group.rank, group.size).replicas
        if replicas > 1 and role_of(name).summed and parameter.requires_grad:
            hook = partial(sum_over_replicas, group=group, replicas=replicas)
            parameter.register_hook(hook)  # type: ignore[no-untyped-call]


def mark_owners(model: Transformer, group: AxisGroup) -> None:
    """Marks each parameter with whether this rank counts it in the global gradient norm.

    DeepSpeed counts a parameter where its `tensor_model_parallel` is true, and on tensor rank 0 (model-parallel rank
    0 in ZeRO-3) also unmarked ones. So the mark is true on exactly one owner of each part; rank 0 owns every part it
    holds, hence the second rule adds nothing. Call it after materialising the parameters.
    """
    for name, parameter in model.named_parameters():
        cut = cut_of(name, model.config, group.rank, group.size)
        parameter.tensor_model_parallel = cut.is_owner  # type: ignore[attr-defined]
