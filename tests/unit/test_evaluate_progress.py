"""A long evaluation says every ten seconds how many tokens are done."""

from typing import Any, cast

from model.predictions import Predictions
from train.evaluate.progress import Reporting
from train.predictor import Predictor


class Counting:
    """A predictor whose calls have 100 tokens and return nothing."""

    at_once = 2
    evaluated_tokens = 0

    def token_losses(self, *_: Any) -> None:
        self.evaluated_tokens += 100

    def predictions(self, *_: Any) -> list[Predictions]:
        self.evaluated_tokens += 100
        return []


def test_tokens_of_the_task_are_said_every_ten_seconds() -> None:
    said, now = list[str](), iter([0.0, 0.0, 4.0, 10.0, 11.0, 20.0, 21.0, 40.0])
    reporting = Reporting(
        cast(Predictor, Counting()), said.append, ranks=3, clock=lambda: next(now)
    )
    reporting.begin("x: passkey", 1200)
    assert [reporting.predictions([], 1e4) for _ in range(4)] == [[]] * 4
    reporting.begin("x: held_out", 0)
    assert reporting.token_losses([], 1e4) is None
    assert said == [
        "x: passkey: 600 of about 1,200 tokens done",
        "x: passkey: 1,200 of about 1,200 tokens done",
        "x: held_out: 300 tokens done",
    ]
    assert (reporting.at_once, reporting.evaluated_tokens) == (2, 500)
