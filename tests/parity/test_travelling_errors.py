"""An error that one rank raises is raised on all of them: it must survive being pickled."""

import ast
import pickle
from pathlib import Path

import pytest

from data.printable import Mistakes
from data.prompts.fill import TooShort
from model.huggingface.refusal import CannotExpress
from parallel.links import TransferFailed
from parallel.rendezvous.store_gather import StoreLost
from train.configuration.compose import ConfigMistakes
from train.preflight.check import Unsound
from train.preflight.judge import Verdict

ROOT = Path(__file__).resolve().parents[2]
# Every error with an `__init__` of its own, which pickle would call with the text, as it does for a ValueError.
EXAMPLES = (
    Mistakes("one", "two", way_out="mend them"),
    StoreLost(),
    CannotExpress(["one", "two"]),
    TooShort(8, 20),
    TransferFailed("it hangs", 3),
    ConfigMistakes(["one", "two"], wrong=["seed"]),
    Unsound(Verdict(["one", "two"], [], "", "", broken=True), alone=True),
)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_comes_back_as_it_was(error: Exception) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert (str(back), vars(back)) == (str(error), vars(error))


def test_no_error_with_an_init_of_its_own_is_left_out() -> None:
    found = set()
    for folder in ("model", "data", "parallel", "train"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if not isinstance(node, ast.ClassDef):
                    continue
                methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
                is_error = any(ast.unparse(base).endswith("Error") for base in node.bases)
                if is_error and "__init__" in methods:
                    found.add(node.name)
    assert found == {type(error).__name__ for error in EXAMPLES}
