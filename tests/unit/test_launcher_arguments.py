"""What DeepSpeed's launcher adds to a command line, and what scripts for it hold."""

import pytest

from train.__main__ import main
from train.configuration.launcher_arguments import without_launcher_arguments


@pytest.mark.parametrize("given", ["--local_rank=1", "--local-rank=1", "--local_rank 1"])
def test_the_local_rank_of_the_launcher_is_taken_away(given: str) -> None:
    assert without_launcher_arguments([*given.split(), "a=b"], 1) == (["a=b"], [])


@pytest.mark.parametrize(
    "given", ["--local_rank=0", "--local_rank=", "--local_rank", "--local_rank=x"]
)
def test_a_local_rank_that_contradicts_the_launcher_is_named(given: str) -> None:
    rest, (line,) = without_launcher_arguments([given], 1)
    assert rest == [] and line.startswith("--local_rank=") and "LOCAL_RANK is 1" in line


@pytest.mark.parametrize(
    "given",
    ["--deepspeed", "--deepspeed --deepspeed_config f.json", "--deepspeed_config=f.json", "--deepspeed f.json"],
)  # fmt: skip
def test_an_option_that_configures_deepspeed_gets_one_line(given: str) -> None:
    rest, (line,) = without_launcher_arguments([*given.split(), "a=b", "--check"], 0)
    assert rest == ["a=b", "--check"]
    assert "parallel.zero_stage" in line and "launch/deepspeed.sh" in line


def test_the_command_takes_what_the_launcher_of_deepspeed_adds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    assert main(["--local_rank=0", "--folder", "experiment=quickstart", "run_name=ours"]) == 0
    assert capsys.readouterr().out.endswith("ours\n")
    assert main(["--deepspeed_config", "f.json", "--folder"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
