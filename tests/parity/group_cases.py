"""Groups of parameters that the parity tests train, and how every parameter of a model trains with them."""

from model.config import ModelConfig
from model.parameters import parameter_names
from parallel.config import ParameterGroup
from parallel.engine.groups import groups_of
from parallel.engine.training import StepCounts, Training
from train.schedule.groups import stage_groups

_REST = ParameterGroup(frozen=True)
# By what is trained. Of `cohere` layers 1 and 5 are full, of `llama` 1, 3 and 5; a pipeline has stages without any.
TRAINED: dict[str, dict[str, ParameterGroup]] = {
    "full layers": {"rest": _REST, "long": ParameterGroup(kinds=["full_*"])},
    "one layer": {"rest": _REST, "one": ParameterGroup(parameters=["layers.5.*"])},
    "queries": {"rest": _REST, "queries": ParameterGroup(parameters=["attention.q_proj.*"])},
    "vectors": {
        "rest": _REST,
        "vectors": ParameterGroup(parameters=["*norm.weight", "*.bias", "*sinks*", "*_scale*"]),
    },
    "embedding": {"rest": _REST, "embedding": ParameterGroup(parameters=["embedding.weight"])},
    "head": {"rest": _REST, "head": ParameterGroup(parameters=["lm_head.weight", "norm.weight"])},
    "all but the embedding": {
        "embedding": ParameterGroup(parameters=["embedding.weight"], frozen=True)
    },
    "all but feed-forwards": {"wide": ParameterGroup(parameters=["feed_forward.*"], frozen=True)},
}


def training_of(
    model: ModelConfig, groups: dict[str, ParameterGroup], steps: StepCounts | None = None
) -> Training:
    """How every parameter trains, as a run without stages of its own resolves it."""
    names = parameter_names(model, range(model.num_layers))
    return Training(
        groups_of(names, model, groups), stage_groups(groups, {}), steps or StepCounts()
    )
