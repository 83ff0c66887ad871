"""What only some steps measure: output gates (`logging.gate_steps`), and the health of layers (`logging.layer_steps`).

Measuring changes no number that training reads: a measured step gives the same bits as another one.
"""

from typing import Any, NamedTuple

from model.attention.gate_sums import GateSums, stripes
from model.config import ModelConfig
from model.layer_sums import LayerSums
from parallel.mesh import Mesh
from train.configuration.schema import LoggingConfig
from train.health.layers import health_of_layers
from train.trainer import Trainer


class Measured(NamedTuple):
    """What the step to come measures; None: not."""

    gates: GateSums | None
    layers: LayerSums | None


def begin_measuring(trainer: Trainer, logging: LoggingConfig, step: int) -> Measured:
    """Begins the sums that are due at this step."""

    def due(every: int) -> bool:
        return every > 0 and step % every == 0

    measured = Measured(
        trainer.gate_sums if due(logging.gate_steps) else None,
        trainer.layer_sums if due(logging.layer_steps) else None,
    )
    for sums in measured:
        if sums is not None:
            sums.begin()
    if measured.layers is not None:
        trainer.engine.squares.begin()
    return measured


def measured_entries(
    measured: Measured, trainer: Trainer, mesh: Mesh, model: ModelConfig
) -> dict[str, Any]:
    """Returns the entries of a row that this step measured. Collective if there are any."""
    gates, layers = measured
    row: dict[str, Any] = {}
    if gates is not None:
        gates.end()
        row["gate_stripes"] = stripes(mesh.sum_over_world(gates.sums).cpu(), gates.widths)
    if layers is not None:
        layers.end()
        row["layers"] = health_of_layers(layers, trainer.engine, mesh, model)
    return row
