"""Greedy decoding of packed documents by repeated forwards: every token with a label is predicted from predictions.

    1. forward of the true tokens: right up to the first error of a document, as greedy decoding is
    2. every labelled token becomes the prediction for its place; the others, a prompt, stay
    3. forward again, until no prediction changes

In a causal model a prediction depends on the tokens before it alone. So after n forwards the first n labelled tokens
from the first error on are those of decoding one token at a time, and where nothing changes all are: the same result,
with at most as many forwards and one more to see that it is final (Jacobi decoding: Song et al., arXiv 2002.03629).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from data.batch import IGNORE, PackedBatch
from model.at_step import AtStep
from parallel.mesh import Mesh
from train.objective import MicroBatch, to_device
from train.predictor import Predictor


def places_in_stream(packed: PackedBatch) -> np.ndarray:
    """Returns the place in the whole stream of every token held here, int64 (T,)."""
    return np.concatenate([np.arange(piece.start, piece.stop) for piece in packed.ranges])


def decode(
    trainer: Predictor,
    mesh: Mesh,
    group: Sequence[PackedBatch],
    at: AtStep,
    after_forward: Callable[[], None],
) -> list[Tensor] | None:
    """Returns, for every micro-batch, the decoded id after every token held here whose target has a label, int64 (T,).

    None if another rank counts them. group: at most `trainer.at_once` micro-batches with the true tokens, of equal
    size on all ranks. after_forward: called after every forward. Collective.
    """
    truth = [to_device(packed, mesh.device) for packed in group]
    places = [torch.from_numpy(places_in_stream(packed)).to(mesh.device) for packed in group]
    width = 1 + max(sum(packed.lengths) for packed in group)
    micro_batches, before, ids = truth, None, None
    # Every forward makes one more token of a document final, also where equal inputs do not give equal bits.
    for _ in range(width):
        found = trainer.predictions(micro_batches, at)
        after_forward()
        ids = None if found is None else [one.ids_T for one in found]
        # Of every data rank: the decoded id and one at every place of the stream that has one, else 0.
        decoded = torch.zeros(
            (mesh.dp_size, len(group), width), dtype=torch.int64, device=mesh.device
        )
        for index, ids_T in enumerate(ids or ()):
            known = truth[index].targets_T != IGNORE
            decoded[mesh.dp_rank, index, places[index][known] + 1] = ids_T[known] + 1
        mesh.sum_over_world(decoded)
        if before is not None and torch.equal(decoded, before):
            break
        before = decoded
        own = decoded[mesh.dp_rank]
        micro_batches = [
            _with(one, own_T[places_T])
            for one, own_T, places_T in zip(truth, own, places, strict=True)
        ]
    return ids


def _with(truth: MicroBatch, decoded_T: Tensor) -> MicroBatch:
    """Returns the micro-batch with decoded tokens (ids and one, 0 for none) in place of the true ones."""
    return replace(truth, tokens_T=torch.where(decoded_T > 0, decoded_T - 1, truth.tokens_T))
