"""Predictions are the arg max of the whole logits, and ranks the place of the target among all ids."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from model.logits import IGNORE, Logits
from model.loss import ChunkedLoss
from model.predictions import count_before


def sorted_ranks(logits_TV: torch.Tensor, targets_T: torch.Tensor) -> list[int]:
    """The place of each target where ids are sorted by falling logit, then by id; IGNORE without a target."""
    found = []
    for logits_V, target in zip(logits_TV.tolist(), targets_T.tolist(), strict=True):
        order = sorted((-value, one) for one, value in enumerate(logits_V))
        ids = [one for _, one in order]
        found.append(ids.index(target) if target != IGNORE else IGNORE)
    return found


@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_predictions_are_those_of_the_whole_logits_where_there_is_a_target(softcap: float) -> None:
    """600 tokens are three chunks; whole numbers make many equal logits."""
    generator = torch.Generator().manual_seed(0)
    hidden_TD = torch.randint(-2, 3, (600, 4), generator=generator).double()
    weight_VD = torch.randint(-2, 3, (37, 4), generator=generator).double()
    targets_T = torch.randint(0, 37, (600,), generator=generator)
    targets_T[torch.rand(600, generator=generator) < 0.3] = IGNORE
    found = ChunkedLoss().predictions(hidden_TD, weight_VD, targets_T, logits=Logits(0.5, softcap))
    logits_TV = Logits(0.5, softcap).of(hidden_TD @ weight_VD.t())
    ranks = sorted_ranks(logits_TV, targets_T)
    assert found.ranks_T.tolist() == ranks
    assert found.ranks_T.max() > 30
    best = [int(row.argmax()) for row in logits_TV]
    wanted = [i if t != IGNORE else IGNORE for i, t in zip(best, targets_T.tolist(), strict=True)]
    assert found.ids_T.tolist() == wanted
    right = (found.ids_T == targets_T) & (targets_T != IGNORE)
    assert right.sum() > 0
    assert torch.equal(right, found.ranks_T == 0)
    losses_T = cross_entropy(logits_TV, targets_T, ignore_index=IGNORE, reduction="none")
    torch.testing.assert_close(found.losses_T, losses_T)


def test_without_a_target_nothing_is_predicted() -> None:
    nothing = torch.full((5,), IGNORE)
    found = ChunkedLoss().predictions(torch.ones(5, 2), torch.ones(3, 2), nothing)
    assert found.ids_T.tolist() == found.ranks_T.tolist() == [IGNORE] * 5


def test_a_logit_that_is_no_number_makes_no_target_right() -> None:
    nan = float("nan")
    logits_CV = torch.tensor([[nan, 1.0, 0.0], [2.0, 1.0, nan], [nan, nan, nan]])
    targets_C = torch.tensor([0, 0, 1])
    picked_C = logits_CV.gather(1, targets_C[:, None]).squeeze(1)
    assert count_before(logits_CV, picked_C, targets_C).tolist() == [3, 1, 3]
