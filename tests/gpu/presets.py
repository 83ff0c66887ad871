"""Models by the names of `conf/`, without Hydra: a GPU host may have neither it nor a network."""

from dataclasses import replace
from pathlib import Path

import torch
import yaml
from torch import Tensor

from model.attention.layer import Attention
from model.config import ModelConfig
from model.layer_pattern import expand_pattern
from model.transformer import Transformer

CONF = Path(__file__).resolve().parents[2] / "conf"
ROPE_BASE = 10_000.0
_INTO_RESIDUAL = ("o_proj.weight", "down_proj.weight")


def preset(model: str, recipe: str = "rnope_swa", *, rehearsal: bool = False) -> ModelConfig:
    """`model=MODEL recipe=RECIPE`; in a rehearsal the same recipe in a shape for seconds on a CPU."""
    values: dict[str, object] = {}
    for path in (CONF / "model" / f"{model}.yaml", CONF / "recipe" / f"{recipe}.yaml"):
        values |= yaml.safe_load(path.read_text())
    config = ModelConfig(**values)  # type: ignore[arg-type]
    if not rehearsal:
        return config
    small = {"hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "num_kv_heads": 1}
    return replace(config, num_layers=4, head_dim=32, vocab_size=512, window=16, **small)


def device_draw(config: ModelConfig, device: torch.device, seed: int = 0) -> "Draw":
    """Initial weights drawn on the device: a shortcut of benchmarks, see `Draw`."""
    return Draw(config, torch.Generator(device).manual_seed(seed))


class Draw:
    """Fills parameters by name: the deviations of `model/initialization.py`, other numbers.

    That one draws on the CPU by name, so that every layout starts alike: minutes for billions of
    parameters. What is only timed does not need it.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        self._config = config
        self._generator = generator

    def __call__(self, name: str, tensor: Tensor) -> None:
        """Fill the parameter called `name` in place."""
        if name.endswith("norm.weight"):
            tensor.fill_(1.0)
            return
        deviation = self._config.init_std
        if name.endswith(_INTO_RESIDUAL):
            deviation /= (2 * self._config.num_layers) ** 0.5
        tensor.normal_(0.0, deviation, generator=self._generator)


def adopt_recipe(model: Transformer, config: ModelConfig) -> None:
    """Let a built model attend by the layer pattern of `config`, which has the same parameters.

    So the hybrid and full attention are timed on one set of weights and one optimizer.
    """
    for index, spec in enumerate(expand_pattern(config)):
        attention = model.layers[str(index)].attention
        assert isinstance(attention, Attention)
        attention.spec = spec
    model.config, model.specs = config, expand_pattern(config)
