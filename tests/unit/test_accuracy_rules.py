"""Settings of the evaluation of accuracy: what is not possible names a way out."""

from typing import Any

from data.config import DataConfig, SourceConfig
from data.generated.key_value import KeyValue
from data.generated.posgen import PosGen
from train.configuration.accuracy_rules import accuracy_problems
from train.configuration.evaluation_settings import AccuracyConfig, EvaluationConfig
from train.configuration.schema import RunConfig, ScheduleConfig

SOURCES = {
    "trained_only": KeyValue(task="key_value", heldout=0),
    "p": PosGen(task="posgen", heldout=20),
    "recall": KeyValue(task="key_value", key_tokens=1, ids=16, min_length=50, max_length=50),
}
KEY = "evaluation.accuracy"
EMPTY: dict[str, Any] = {}


def said(sources: dict[str, Any] = SOURCES, **accuracy: Any) -> list[str]:
    made = {name: SourceConfig(generated=one) for name, one in sources.items()}
    evaluation = EvaluationConfig(accuracy=AccuracyConfig(**accuracy))
    data = DataConfig(sources=made)
    return accuracy_problems(
        RunConfig("named", ScheduleConfig({}), data=data, evaluation=evaluation)
    )


def test_the_first_source_with_held_out_documents_is_scored_unless_one_is_named() -> None:
    assert said(lengths=[64, 256], documents=20, greedy_documents=20) == []
    assert AccuracyConfig().source_of(SOURCES) == "p"
    assert said(source="recall", lengths=[50]) == []


def test_documents_that_cannot_be_made_name_a_way_out() -> None:
    assert said(sources=EMPTY, lengths=[64]) == [
        f"{KEY}.lengths=[64]: no generated source has held-out documents; give data.sources.NAME.generated, or drop it"
    ]
    assert said(source="q", lengths=[64]) == [
        f"{KEY}.source=q: is no generated source of this run; they are: trained_only, p, recall"
    ]
    assert said(lengths=[64, 64], documents=21, greedy_documents=22) == [
        f"{KEY}.lengths=[64, 64]: have a length twice; give each once",
        f"{KEY}.documents=21: p has 20 held-out documents; give data.sources.p.generated.heldout=21, or fewer"
        " documents",
        f"{KEY}.greedy_documents=22: must be at most {KEY}.documents=21; give 21 or less",
    ]
    assert said(lengths=[6, 7], documents=20) == [
        f"{KEY}.lengths=[6, 7]: p has no documents of 6 tokens: min_length=6: a seed and a symbol after it, BOS and "
        "end token are 7 tokens; give min_length=7 or more"
    ]
    [line] = said(source="recall", lengths=[50, 64])
    assert "recall has no documents of 64 tokens: ids=16: half of them make 8 keys" in line
