"""A tied embedding and head in different pipeline stages.

                  first stage                                 last stage
    backward      embedding.weight accumulates its gradient   the head's copy accumulates its own
    boundary      adds the received gradient          <---    sends its gradient in float32
    step          the optimizer updates the weight
    after it      sends the weight                    --->    overwrites the copy

The copy is no parameter of the optimizer: it has no master weight and no optimizer states, the global gradient norm
counts the weight once, and the two always stay equal. With an optimizer for each they would drift apart, because
sums over data ranks round differently in buffers that are cut differently. Both transfers together cost as much as
one exchange of gradients. In a V-shaped schedule both stages are on one rank and share the parameter. A frozen weight
changes only by a restore; after that it is sent once.

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
    """One pipeline rank's side of the transfers between a tied embedding and the head.

    Make it once weights have storage, and before the optimizer: if both stages are on this rank, the head shares the
    embedding's parameter from here on. It does nothing if the model's embedding is not tied, and on ranks that hold
    neither end. Call `add_gradient` and `follow` on every rank, in the same order.

    stages: of this rank, ascending. follower: the head's copy, not to be given to the optimizer; None on other ranks.
    trains: whether the weight is trained, so that its gradient is sent; the same on every rank.
    """

    def __init__(
        self,
        stages: Sequence[Transformer],
        placement: Placement,
        mesh: Mesh,
        *,
        trains: bool = True,
    ) -> None:
        self.trains = trains
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
        """Adds the copy's gradient to its float32 sum; call after every backward."""
        if self.follower is None or self.follower.grad is None:
            return
        gradient_VD, self.follower.grad = self.follower.grad, None
        if self._collected_VD is None:
            self._collected_VD = gradient_VD.to(statistics_dtype(gradient_VD.dtype))
        else:
            self._collected_VD += gradient_VD

    @torch.no_grad()
    def add_gradient(self, gradient: Tensor | None) -> None:
        """Adds the copy's gradient to the embedding's; call after the last backward, before ZeRO reduces gradients.

        gradient: on the embedding's rank, its gradient summed over the micro-batches, in the precision of that sum;
        changed in place. Ignored on other ranks.
        """
        if not self.trains:
            return
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
        """Overwrites the head's copy with the embedding's weight; call after a step or a restore."""
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
