"""The largest product of a query and a visible key is that of the whole mask, of which only a block is ever held."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.attention import largest_product as module
from model.attention.banded import Piece
from model.attention.dense import visible_TS
from model.attention.largest_product import largest_product
from model.attention.packed import _segments
from model.attention.segments import Segments
from model.packed_layout import PackedLayout
from model.reach import Reach

LENGTHS = (1, 300, 1, 17, 17, 16, 5, 70)
REACHES = (Reach(), Reach(window=1), Reach(window=20), Reach(window=300), Reach(chunk=33))


def of_negative_products(num_queries: int, num_keys: int) -> tuple[Tensor, Tensor]:
    """Queries (T, 4, 3) and keys (S, 2, 3) in float64, all products below zero: padding with zeros would show."""
    generator = torch.Generator().manual_seed(num_queries)
    q_THK = torch.rand(num_queries, 4, 3, generator=generator, dtype=torch.float64) + 0.1
    k_SGK = torch.rand(num_keys, 2, 3, generator=generator, dtype=torch.float64) + 0.1
    return q_THK, -k_SGK


def by_definition(q_THK: Tensor, k_SGK: Tensor, seen_TS: Tensor) -> float:
    products_HTS = torch.einsum("thk,shk->hts", q_THK, k_SGK.repeat_interleave(2, dim=1))
    return float(products_HTS[:, seen_TS].max())


@pytest.mark.parametrize("reach", REACHES, ids=str)
@pytest.mark.parametrize(("queries", "products"), [(256, 1 << 24), (7, 300)])
def test_it_is_the_largest_of_all_that_the_mask_lets_see(
    reach: Reach, queries: int, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_QUERIES", queries)
    monkeypatch.setattr(module, "_PRODUCTS", products)
    layout = PackedLayout.from_lengths(LENGTHS)
    q_THK, k_TGK = of_negative_products(sum(LENGTHS), sum(LENGTHS))
    found = largest_product(q_THK, k_TGK, _segments(layout, reach).pieces)
    assert float(found) == pytest.approx(
        by_definition(q_THK, k_TGK, visible_TS(layout, reach)), abs=1e-14
    )


@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (True, 40)])
def test_keys_of_other_ranks_count_as_well(causal: bool, window: int | None) -> None:
    lengths = {"queries": (3, 90), "keys": (50, 120)}
    segments = Segments.from_lengths(*lengths.values(), causal=causal, window=window)
    q_THK, k_SGK = of_negative_products(93, 170)
    seen_TS = torch.zeros(93, 170, dtype=torch.bool)
    for query, key, n, m in ((0, 0, 3, 50), (3, 50, 90, 120)):
        ones = torch.ones(n, m, dtype=torch.bool)
        seen = ones.tril(m - n) if causal else ones
        seen_TS[query : query + n, key : key + m] = (
            seen.triu(m - n + 1 - window) if window else seen
        )
    found = float(largest_product(q_THK, k_SGK, segments.pieces))
    assert found == pytest.approx(by_definition(q_THK, k_SGK, seen_TS), abs=1e-14)


class Largest(TorchDispatchMode):
    """Stores the number of elements of the largest tensor that an operation returns."""

    elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_memory_is_that_of_a_block_and_a_not_finite_product_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_PRODUCTS", 1 << 16)
    pieces: tuple[Piece, ...] = _segments(PackedLayout.from_lengths((4096,)), Reach()).pieces
    q_THK, k_TGK = (x.bfloat16() for x in of_negative_products(4096, 4096))
    with Largest() as largest:
        assert largest_product(q_THK, k_TGK, pieces).isfinite()
    assert largest.elements <= 1 << 16
    k_TGK[5, 0, 0] = torch.nan
    assert largest_product(q_THK, k_TGK, pieces).isnan()
