"""What `--check` answers, and what a run says before it starts: its schedule, checkpoints, memory, this machine."""

from collections.abc import Callable
from pathlib import Path

import pytest

from composed import composed_once  # noqa: F401 (a fixture)
from data.manifest import main as check_files
from data.prepare.__main__ import main as prepare
from data.tokens.prefix import as_prefix
from train.__main__ import main
from train.configuration import room, validate
from train.configuration.compose import ConfigMistakes, compose_run, from_yaml, to_yaml
from train.schedule.stages import build_schedule


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, answer and notes of `--check`."""
    status = main(["--check", *arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        (["schedule=small"], 1),
        (["schedule=to_32k"], 59),
        (["schedule=to_128k", "model=8b"], 500),
        (["schedule=to_128k", "model=8b", "train.max_steps=100"], 500),
        (["experiment=quickstart"], 50),
        (["schedule=to_32k", "checkpoint.every_steps=0"], 0),
    ],
)
def test_checkpoints_are_a_hundredth_of_the_schedule_apart(
    arguments: list[str], steps: int
) -> None:
    """The number stands in the configuration that the run keeps."""
    config = compose_run(arguments)
    assert config.checkpoint.every_steps == steps
    assert from_yaml(to_yaml(config)).checkpoint.every_steps == steps


def test_a_run_that_saves_nothing_inside_a_stage_is_warned_of() -> None:
    config = compose_run(["schedule=to_32k", "checkpoint.every_steps=0"])
    schedule, _ = build_schedule(config)
    assert schedule is not None
    (line,) = (line for line in validate.warnings(config, schedule) if "checkpoint" in line)
    assert "killed in pretrain loses up to 4,769 steps" in line


def test_what_is_no_alternative_is_one_mistake() -> None:
    with pytest.raises(ConfigMistakes) as caught:
        compose_run(["checkpoint.every_steps=often"])
    assert caught.value.mistakes == [
        "checkpoint.every_steps=often: must be a whole number from 0 up or auto"
    ]


def test_check_judges_the_configuration_and_not_the_disk_of_this_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**6}))
    arguments = ["model=8b", "schedule=to_128k", f"paths.outputs={tmp_path}"]
    status, answer, notes = check(capsys, *arguments)
    assert status == 0
    assert "the configuration is sound" in answer
    assert "this machine, not the configuration: paths.outputs=" in notes
    assert main(arguments) == 2, "the run itself is refused"


def test_check_says_what_the_run_is_and_what_a_rank_holds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, answer, _ = check(capsys, "experiment=quickstart")
    assert "2,360,256 parameters: 4 layers" in answer
    assert "short 256 -> middle 1,024 -> long 4,096; 1,048,576 tokens, 360 steps" in answer
    assert "a checkpoint every 50 step(s)" in answer
    # 2.36M parameters of 2 + 4 + 2 bytes, 12 for master and moments, 4 in the bucket.
    assert "in stage long: 0.06 GB weights, gradients and optimizer" in answer


def test_a_model_without_windows_is_described_without_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "window" in check(capsys, "recipe=rnope_swa")[1]
    assert "window" not in check(capsys, "recipe=llama")[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], True),
        (["model=125m", "train.max_steps=10"], True),
        (["schedule=quickstart"], False),
        (["experiment=quickstart"], False),
        (["~schedule.stages.long"], False),
    ],
)
def test_a_schedule_that_nobody_chose_is_named_with_its_tokens(
    capsys: pytest.CaptureFixture[str], arguments: list[str], *, says: bool
) -> None:
    _, _, notes = check(capsys, *arguments)
    assert ("schedule=quickstart is taken where none is chosen" in notes) == says
    assert ("1,048,576 tokens" in notes) == says
    assert ("of which train.max_steps=10 takes a part" in notes) == (
        "train.max_steps=10" in arguments
    )


def test_check_refuses_a_vocabulary_smaller_than_that_of_the_token_files(
    capsys: pytest.CaptureFixture[str], declare: Callable[..., str], tmp_path: Path
) -> None:
    web = declare(tmp_path / "web", vocab_size=5000)
    arguments = ["data=files", f"data.sources.web.prefix={web}"]
    status, _, said = check(capsys, *arguments, "model.vocab_size=4096")
    assert status == 2
    assert (
        f"model.vocab_size=4096: the tokenizer of {web} has 5000 ids; use model.vocab_size=5000"
        in said
    )
    assert check(capsys, *arguments, "model.vocab_size=5000")[0] == 0


def test_check_refuses_token_files_that_cannot_be_read_together(
    capsys: pytest.CaptureFixture[str], declare: Callable[..., str], tmp_path: Path
) -> None:
    """All reasons at once: another tokenizer, another end token, a held-out part with a BOS, no manifest."""
    prefixes = {
        "web": declare(tmp_path / "web", tokenizer={"sha256": "a"}),
        "code": declare(tmp_path / "code", tokenizer={"sha256": "b"}),
        "books": declare(tmp_path / "books", tokenizer={"sha256": "a"}, eos_id=3),
    }
    heldout = declare(tmp_path / "heldout", tokenizer={"sha256": "a"}, bos_id=1)
    arguments = ["data=files", f"data.heldout={heldout}"]
    arguments += [f"data.sources.{name}.prefix={prefix}" for name, prefix in prefixes.items()]
    status, _, said = check(capsys, *arguments)
    assert status == 2
    assert f"data.sources.code.prefix={tmp_path}/code: made with another tokenizer than web" in said
    assert f"data.sources.books.prefix={tmp_path}/books: its documents end with id 3" in said
    assert f"data.heldout={tmp_path}/heldout: its documents begin with BOS id 1" in said
    (tmp_path / "code.manifest.json").unlink()
    assert "code.manifest.json: no such file" in check(capsys, *arguments)[2]


def test_check_refuses_to_go_on_from_what_the_run_would_refuse(
    capsys: pytest.CaptureFixture[str], imported: str, declare: Callable[..., str], tmp_path: Path
) -> None:
    texts = f"data.sources.texts.prefix={declare(tmp_path / 'texts')}"
    # Of runs without a checkpoint of their own, whatever `make train` has left in outputs/.
    start = [f"checkpoint.resume={imported}", f"paths.outputs={tmp_path}"]
    arguments = ["experiment=extend_llama", *start, texts]
    assert check(capsys, *arguments)[0] == 0
    status, _, said = check(capsys, *arguments, "model.kinds.full_rope.rope.scaling=linear",
                            "model.kinds.full_rope.rope.factor=4")  # fmt: skip
    assert status == 2
    assert "or set checkpoint.allow_changes=[rope_scaling]" in said
    status, _, said = check(capsys, "experiment=quickstart", *start)
    assert status == 2
    assert "model.hidden_size=192: the checkpoint's model has 128" in said
    (Path(imported) / "state.json").write_bytes(b"{}")
    status, _, said = check(capsys, "experiment=quickstart", *start)
    assert status == 2
    assert said.count("\n") == 1
    assert f"checkpoint.resume={imported}: checkpoint {imported}: state.json is damaged" in said


def test_a_damaged_checkpoint_of_its_own_is_for_the_run_to_set_aside(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    own = tmp_path / "quickstart/checkpoints/step_00000010"
    own.mkdir(parents=True)
    (own / "state.json").write_bytes(b"{}")
    assert check(capsys, "experiment=quickstart", f"paths.outputs={tmp_path}")[0] == 0


def test_check_warns_that_no_family_of_hugging_face_can_take_the_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, _, notes = check(capsys, "schedule=small", "recipe=qk_norm")
    assert "warning: no Hugging Face family takes all forms of this model together" in notes
    assert (
        "the nearest, cohere: model.qk_norm_over=head: cohere ties it to use_qk_norm=True" in notes
    )
    _, _, notes = check(capsys, "schedule=small", "model.gate=sigmoid")
    assert (
        "warning: no Hugging Face family takes sigmoid gate over heads (model.gate=sigmoid model.gate_over=head): "
        "ropewalk export will refuse this model\n"
    ) in notes
    for exported in ("recipe=llama", "recipe=rnope_swa", "model.static_gate=head"):
        assert "Hugging Face" not in check(capsys, "schedule=small", exported)[2]


def test_a_file_of_a_prefix_is_taken_for_the_prefix(
    capsys: pytest.CaptureFixture[str], declare: Callable[..., str], tmp_path: Path
) -> None:
    web, heldout = declare(tmp_path / "web"), declare(tmp_path / "heldout.bin")
    for suffix in ("bin", "idx", "manifest.json"):
        config = compose_run(
            ["data=files", f"data.sources.web.prefix={web}.{suffix}", f"data.heldout={heldout}"]
        )
        assert config.data.sources["web"].prefix == web
        assert config.data.heldout == heldout, "these files have such a name themselves"
        assert validate.files(config) == []
    for given in ("corpus/web.bin", "corpus/web.idx", "corpus/web.crc", "corpus/web.manifest.json"):
        assert as_prefix(given) == "corpus/web"
    for given in ("corpus/web", "corpus/web.jsonl", "corpus/.bin", ".bin", "web.v2", ""):
        assert as_prefix(given) == given


def test_the_commands_of_data_take_a_file_of_a_prefix_for_the_prefix(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert check_files([f"{tmp_path}/web.bin"]) == 2
    assert capsys.readouterr().err.startswith(
        f"data.manifest: {tmp_path}/web.manifest.json: no such"
    )
    (tmp_path / "text.txt").write_text("some text\n")
    (tmp_path / "web.bin").touch()
    (tmp_path / "web.idx").touch()
    arguments = ["--input", f"{tmp_path}/text.txt", "--tokenizer", f"{tmp_path}/none.model"]
    assert prepare([*arguments, "--output", f"{tmp_path}/web.bin"]) == 2
    assert "web.bin.bin" not in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt", "web.bin", "web.idx"]
