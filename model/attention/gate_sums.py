"""Sums over the tokens of one step from which is seen whether an output gate has become constant.

For each number of each layer's gate, the sums of 1, a and a^2 over the tokens; a is the gate. They are float64, stay
on the device and change nothing that training reads. Padding counts, as any token. See `model.measured_steps`.

Source: arXiv 2304.06345, stripe observation. Shape letters: T tokens, W numbers of the gate.
"""

import torch
from torch import Tensor

from model.attention.gate import GATES
from model.config import ModelConfig
from model.layer_pattern import expand_pattern
from model.measured_steps import MeasuredSteps
from model.norm import statistics_dtype


class GateSums(MeasuredSteps):
    """The sums of the layers of one rank, in a table of all gated layers, so that tables of ranks can be added.

    index, parts: this rank holds part `index` of `parts` equal ones of the heads.
    """

    def __init__(
        self, config: ModelConfig, device: torch.device, index: int = 0, parts: int = 1
    ) -> None:
        super().__init__()
        self.widths = {
            layer: config.num_heads * (config.head_dim if spec.gate_over == "channel" else 1)
            for layer, spec in enumerate(expand_pattern(config))
            if spec.gate != "none"
        }
        self._rows = {layer: row for row, layer in enumerate(self.widths)}
        self._index, self._parts = index, parts
        widest = max(self.widths.values(), default=0)
        self.sums = torch.zeros(len(self.widths), 3, widest, dtype=torch.float64, device=device)

    def begin(self) -> None:
        """Sums anew from here until `end`."""
        self.sums.zero_()
        super().begin()

    @torch.no_grad()
    def add(self, layer: int, gate: str, product_TW: Tensor) -> None:
        """Adds tokens of one layer. gate, product_TW: as in `gate.gated`."""
        if not self.counts:
            return
        a_TW = GATES[gate](product_TW.to(statistics_dtype(product_TW.dtype)))
        width = self.widths[layer] // self._parts
        sums_3W = self.sums[self._rows[layer], :, self._index * width : (self._index + 1) * width]
        sums_3W[0] += len(a_TW)
        sums_3W[1] += a_TW.sum(dim=0, dtype=torch.float64)
        sums_3W[2] += a_TW.square().sum(dim=0, dtype=torch.float64)


# Below this a number of a gate counts as constant.
CONSTANT = 0.1


def stripes(sums_L3W: Tensor, widths: dict[int, int]) -> dict[str, dict[str, float]]:
    """By layer: median over the gate's numbers of s = std(a) / |mean(a)|, and the share of them with s < 0.1.

    sums_L3W: sums of all ranks, on the host. widths: as in `GateSums`.
    """
    found = {}
    for row, (layer, width) in enumerate(widths.items()):
        count_W, sum_W, square_W = sums_L3W[row, :, :width]
        mean_W = sum_W / count_W
        variance_W = (square_W / count_W - mean_W.square()).clamp(min=0)
        s_W = variance_W.sqrt() / (mean_W.abs() + 1e-12)
        found[str(layer)] = {
            "median": float(s_W.quantile(0.5)),
            "constant_share": float((s_W < CONSTANT).double().mean()),
        }
    return found
