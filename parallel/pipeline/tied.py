"""One weight for embedding and head when they live in different pipeline stages.

                  first stage                                last stage
    backward      embedding.weight collects its gradient     the head's copy collects its own
    boundary      adds what it is sent                <---   sends it, in float32, and forgets it
    step          AdamW moves the weight
    after it      sends the weight                    --->   the copy follows

The copy is no parameter of the optimizer: it has no master weight and no moments, the global gradient norm
counts the weight once by itself, and the two can never drift apart, as they would with an optimizer each
(sums over data ranks round differently in differently cut buffers). Both transfers together are what one
exchange of gradients would be. In a V-shaped schedule both stages are on one rank and share the parameter.

Shape letters: V vocabulary (of this tensor rank), D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.norm import statistics_dtype
from model.transformer import Transformer
from parallel.mesh import Mesh
from parallel.pipeline.messages import start_receive, start_send
from parallel.pipeline.placement import Placement


class TiedWeight:
    """The embedding that also serves as head, from the point of view of one pipeline rank.

    Make it when weights have their storage and before the optimizer does: where both stages are on this
    rank the head gives up its copy here. Does nothing for a model whose embedding is not tied, and on
    ranks that hold neither. Calls that transfer are to be made on every rank, in the same order.

    stages: of this rank, ascending. follower: the head's copy; leave it out of the optimizer.
    """

    def __init__(self, stages: Sequence[Transformer], placement: Placement, mesh: Mesh) -> None:
        self.follower: nn.Parameter | None = None
        self._leader: nn.Parameter | None = None
        self._collected_VD: Tensor | None = None
        self._pipeline = mesh.pipeline
        self._holder = placement.rank_of(0)
        self._last = placement.rank_of(placement.num_stages - 1)
        if not stages[0].config.tie_embeddings or placement.num_stages == 1:
            return
        held = placement.stages_of(mesh.pipeline.rank)
        if 0 in held:
            self._leader = _weight(stages[0].embedding)
        if placement.num_stages - 1 in held:
            if self._leader is not None:
                stages[-1].lm_head.weight = self._leader
                self._leader = None
            else:
                self.follower = _weight(stages[-1].lm_head)

    @torch.no_grad()
    def collect(self) -> None:
        """After every backward: add the copy's gradient up in float32."""
        if self.follower is None or self.follower.grad is None:
            return
        gradient_VD, self.follower.grad = self.follower.grad, None
        if self._collected_VD is None:
            self._collected_VD = gradient_VD.to(statistics_dtype(gradient_VD.dtype))
        else:
            self._collected_VD += gradient_VD

    @torch.no_grad()
    def add_gradient(self, gradient: Tensor | None) -> None:
        """After the last backward, before gradients are averaged over data ranks.

        gradient: where the embedding lives, what it collected over the micro-batches, in the precision of
        the collecting; the copy's is added in place. Ignored elsewhere.
        """
        if self.follower is not None:
            self.collect()
            assert self._collected_VD is not None, "no backward has reached the head"
            collected_VD, self._collected_VD = self._collected_VD, None
            start_send(collected_VD, self._holder, self._pipeline).wait()
        if self._leader is not None:
            assert gradient is not None, "the embedding has no gradient"
            other_VD = torch.empty(
                self._leader.shape, dtype=statistics_dtype(gradient.dtype), device=gradient.device
            )
            start_receive(other_VD, self._last, self._pipeline).wait()
            gradient += other_VD.view(gradient.shape)

    @torch.no_grad()
    def follow(self) -> None:
        """After a step or a restore: the head's copy becomes the embedding's weight."""
        if self._leader is not None:
            weight_VD = self._leader.detach()
            start_send(weight_VD, self._last, self._pipeline).wait()
        if self.follower is not None:
            weight_VD = self.follower.detach()
            start_receive(weight_VD, self._holder, self._pipeline).wait()


def _weight(module: nn.Module) -> nn.Parameter:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight
